"""The page docs/yaml.md: `python -m runner.config.reference` prints it."""

from __future__ import annotations

from runner.config.keys import REQUIRED, entries
from runner.config.schedules import SCHEDULES

PREFACE = """\
# Keys of the YAML

Every key in its canonical name (skrl 2.x's, and this program's own), as `launch cfg.yaml --dry-run --show-config` has
them; `launch keys` prints them too. Older names of skrl's are read, see [skrl and Sunflower](skrl.md). Other keys below
`env` are arguments of the task; `sweep` is described in the [guide](guide.md).

<!-- Written by `python -m runner.config.reference > docs/yaml.md`: edit the schema, not this page. -->"""
HEADER = ["", "| key | default | allowed | |", "| --- | --- | --- | --- |"]


def page() -> str:
    """The keys as Markdown: a table for each section."""
    lines = [PREFACE, "", "## Top level", *HEADER]
    sections = {"": ""} | {entry.key: entry.text for entry in entries() if entry.section}
    heading = ""
    for entry in entries():
        section = entry.key.rpartition(".")[0]
        if entry.section:
            continue
        if section != heading:
            heading = section
            lines += ["", f"## {section}", "", sections[section.removesuffix("[]")], *HEADER]
        default = f"`{entry.default}`" if entry.default not in ("", REQUIRED) else entry.default
        cells = (f"`{entry.name}`", default, entry.allowed, entry.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += ["", "## Learning-rate schedules", "", "| name | arguments | |", "| --- | --- | --- |"]
    for name, kind in SCHEDULES.items():
        arguments = ", ".join(f"`{argument}`" for argument in kind.model_fields)
        lines.append(f"| `{name}` | {arguments} | {(kind.__doc__ or '').strip()} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
