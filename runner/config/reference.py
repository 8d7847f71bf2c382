"""The keys of a configuration for people, in the schema's own words; `python -m runner.config.reference` prints a page.

What is said is what is checked: kinds, bounds and defaults come from the schema, and so does the line on each key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.config.load import dump
from runner.config.schedules import SCHEDULES
from runner.config.schema import Config

SECTION = "#/$defs/"
KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "True or False",
    "string": "text",
    "object": "block of keys",
    "null": "null",
}
BOUNDS = (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))


PREFACE = """\
# Keys of the YAML

Every key in its canonical name (skrl 2.x's, and this program's own), as `launch cfg.yaml --dry-run --show-config` has
them. Older names of skrl's are read too, see [skrl and Sunflower](skrl.md). Other keys below `env` are arguments of the
task; `sweep` is described in the [guide](guide.md).

<!-- Written by `python -m runner.config.reference > docs/yaml.md`: edit the schema, not this page. -->"""


@dataclass(frozen=True)
class Entry:
    """One key.

    Attributes:
        key: dotted, with `[]` for every entry of a list.
        default: as YAML; empty for a required key and for lists and blocks.
        allowed: kinds of values and their bounds.
        text: what it is.
    """

    key: str
    default: str
    allowed: str
    text: str


def entries() -> list[Entry]:
    """Every key of the canonical form, section by section."""
    schema = Config.model_json_schema(by_alias=True)
    return list(_entries(schema, schema["$defs"], ""))


def _entries(section: Mapping[str, Any], sections: Mapping[str, Any], above: str) -> Iterator[Entry]:
    below = []
    for name, field in section["properties"].items():
        inner, each = (field["items"], "[]") if "$ref" in field.get("items", {}) else (field, "")
        if "$ref" in inner:
            below.append((sections[inner["$ref"].removeprefix(SECTION)], f"{above}{name}{each}."))
            continue
        default = dump({"x": field["default"]})[3:].strip() if "default" in field else ""
        yield Entry(above + name, default, " or ".join(dict.fromkeys(_allowed(field))), field["description"])
    for inner, key in below:
        yield from _entries(inner, sections, key)


def _allowed(field: Mapping[str, Any]) -> list[str]:
    """The ways to write a value."""
    if "anyOf" in field:
        return [way for choice in field["anyOf"] for way in _allowed(choice)]
    if "const" in field or "enum" in field:
        return [", ".join(map(str, field.get("enum", [field.get("const")])))]
    if field.get("type") == "array":
        return [f"list of {' or '.join(_allowed(field['items']))}"]
    kind = KINDS.get(field.get("type", ""), "as described")
    return [" ".join([kind, *(f"{word} {field[bound]:,}" for bound, word in BOUNDS if bound in field)])]


def page() -> str:
    """The reference as Markdown: a table for each section."""
    lines = [PREFACE]
    heading = None
    for entry in entries():
        section, _, name = entry.key.rpartition(".")
        if section != heading:
            heading = section
            lines += [
                "",
                f"## {section or 'Top level'}",
                "",
                "| key | default | allowed | |",
                "| --- | --- | --- | --- |",
            ]
        cells = (f"`{name}`", f"`{entry.default}`" if entry.default else "", entry.allowed, entry.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += ["", "## Learning-rate schedules", "", "| name | arguments | |", "| --- | --- | --- |"]
    for name, kind in SCHEDULES.items():
        arguments = ", ".join(f"`{argument}`" for argument in kind.model_fields)
        lines.append(f"| `{name}` | {arguments} | {(kind.__doc__ or '').strip()} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
