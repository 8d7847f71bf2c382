"""The settings in which configurations differ."""

from __future__ import annotations

from launcher.report.data import Report, axes
from launcher.report.parts import Cell, Panel, Part, Table, Words, named, num, short

WHOLE = 24
"""Configurations whose YAML is shown."""


def panel(report: Report) -> Panel | None:
    """A column for each setting that differs, and the whole files."""
    if not report.configurations:
        return None
    found = axes(report.configurations)
    rows = [
        [named(c), num(c.iqm), *(_cell(column[place], column[0]) for column in found.values())]
        for place, c in enumerate(report.configurations)
    ]
    note = "Marked: other than in the first row. Seeds, names and logging are left out."
    parts: list[Part] = [
        Table("Settings that differ", ["configuration", "IQM:", *found], rows, note)
        if found
        else Words("note", "None: all configurations have the same settings.", "Settings that differ"),
        Words("texts", [(c.name, c.text) for c in report.configurations[:WHOLE]], "Whole configurations"),
    ]
    if (more := len(report.configurations) - WHOLE) > 0:
        parts.append(Words("note", f"… and {more:,} more; each is in its launch directory as trials/*/config.yaml."))
    return Panel("configurations", "Configurations", parts)


def _cell(value: object, first: object) -> Cell:
    return Cell(short(value), None, "differs" if str(value) != str(first) else "")
