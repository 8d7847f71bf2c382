"""The documents against what they describe: the schema, the command line, the files that they link to."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launcher.cli.commands import app
from launcher.presets import page as presets
from runner.config.reference import page

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("cluster/*.md")])


def commands() -> list[str]:
    """Every line of a document that is a `launch` command, without its comment."""
    lines = [line for document in DOCUMENTS for line in document.read_text().splitlines()]
    found = [line.split("   #")[0].strip() for line in lines if re.match(r"    launch [^V]", line)]
    return sorted({part.strip() for line in found for part in line.split("&&")})


def test_the_reference_is_what_the_schema_says() -> None:
    """`python -m runner.config.reference > docs/yaml.md` writes it anew."""
    assert (REPOSITORY / "docs" / "yaml.md").read_text() == page()


def test_the_presets_page_is_what_was_measured() -> None:
    """`python -m launcher.presets.page > docs/presets.md` writes it anew."""
    assert (REPOSITORY / "docs" / "presets.md").read_text() == presets.page()


@pytest.mark.parametrize("command", commands())
def test_commands_exist(command: str) -> None:
    words = shlex.split(command)[1:]
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_linked_files_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        assert "://" in target or (document.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.encode()) <= 7168 and len(text.splitlines()) <= 120
