"""`import runner` stays light, and each heavy library is imported in one place only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "runner").rglob("*.py"))
HEAVY = ("torch", "jax", "ray", "envpool", "tensorboard", "wandb")


@pytest.mark.parametrize(
    "modules",
    [
        "runner",
        "runner.config",
        "runner.training.pack, runner.draws, runner.training.tracking, runner.errors",
        "runner.checkpoints.checkpoint",
    ],
)
def test_light_modules_import_nothing_heavy(modules: str) -> None:
    program = f"import sys, {modules}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def imported(source: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("library", "where"),
    [
        ("torch", ("runner/torch/", "runner/checkpoints/skrl_files.py")),
        ("jax", ("runner/jax/",)),
        ("envpool", ("runner/envs/envpool.py",)),
        ("ray", ("launcher/",)),
        ("wandb", ("runner/training/wandb.py",)),
    ],
)
def test_heavy_libraries_are_imported_in_one_place(library: str, where: tuple[str, ...]) -> None:
    users = [str(source.relative_to(ROOT)) for source in SOURCES if library in imported(source)]
    assert [user for user in users if not user.startswith(where)] == []
    assert users or library in ("jax", "ray")


def test_the_runner_knows_nothing_of_the_launcher() -> None:
    assert len(SOURCES) > 20
    assert [source.name for source in SOURCES if "launcher" in imported(source)] == []


def test_nothing_in_the_runner_evaluates_or_unpickles() -> None:
    between_own_processes = ROOT / "runner/envs/processes.py"
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{source}:{node.lineno}"
        if source != between_own_processes:
            assert not {"pickle", "dill", "cloudpickle", "joblib", "shelve"} & imported(source), source


def test_no_file_is_long() -> None:
    sources = [*SOURCES, *(ROOT / "tests/runner").rglob("*.py")]
    long = {str(s.relative_to(ROOT)): n for s in sources if (n := len(s.read_text().splitlines())) > 400}
    assert long == {}
