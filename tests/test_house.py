"""The structure of the code: rooms that can be seen at a glance, imports in one direction, functions on one screen."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("runner", "launcher") for path in (REPOSITORY / package).rglob("*.py"))
LARGEST_ROOM = 13
LONGEST_FUNCTION = 60
RIDDLES = {"Of", "What", "Whether", "How", "Who", "Where", "Which", "Whose", "That"}
"""First words of docstrings that do not say what the thing is."""


def module(path: Path) -> str:
    """`runner/envs/base.py` → `runner.envs.base`; a package is its own name."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of ours that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) or {node.module}
    return (found & known) - {module(path)}


def test_no_circle_of_files() -> None:
    known = set(map(module, SOURCES))
    try:
        TopologicalSorter({module(path): imported(path, known) for path in SOURCES}).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_rooms_are_small() -> None:
    rooms = {path.parent for path in SOURCES}
    sizes = {str(room.relative_to(REPOSITORY)): len(list(room.glob("*.py"))) for room in rooms}
    assert {room: size for room, size in sizes.items() if size > LARGEST_ROOM} == {}


def test_texts_are_not_multiplied_and_not_nested() -> None:
    """`"s" * (n > 1)` is `"s" if n > 1 else ""`; a text in a text has a name."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            factors = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) else []
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            inner = [one for part in parts if isinstance(part, ast.FormattedValue) for one in ast.walk(part.value)]
            text = any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in factors)
            if text or any(isinstance(one, ast.JoinedStr) for one in [*factors, *inner]):
                found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def test_functions_fit_on_a_screen() -> None:
    long = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{path.relative_to(REPOSITORY)}: {node.name}"] = lines
    assert long == {}


def test_docstrings_begin_with_what_the_thing_is() -> None:
    riddles = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0] in RIDDLES:
                    riddles.append(f"{path.relative_to(REPOSITORY)}: {getattr(node, 'name', 'module')}")
    assert riddles == []
