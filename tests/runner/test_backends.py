"""The two backends are the same file by file: public names, and the names and order of their functions' parameters."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import runner

FILES = sorted(path.stem for path in (Path(runner.__file__).parent / "torch").glob("*.py"))
ONE_SIDED = {
    "export": "policies are exported through torch, whatever trained them",
    "stepping": "environments are stepped from inside JAX's compiled program",
}
"""Files that only one backend has, and why."""
OWN = {
    # Gradients are taken by a tape, or traced by the compiler; operations on a GPU are recorded, as XLA does by itself.
    "torch.accelerate": {"device", "eager_gradient", "functional_gradient", "gradient"}
    | {"Captured", "CudaGraph", "captured", "constant", "kept"}
    # A program of JAX takes the number of its process as an argument.
    | {"own"},
    # Programs are compiled for all members and kept on disk.
    "jax.accelerate": {"keep_programs", "not_kept", "over_members", "programs_folder", "put", "zeros"},
    # Where processes add up their gradients, JAX's update is a program for each part.
    "jax.update": {"Progress", "Rows", "start", "start_epoch", "parted", "taken", "enter", "descend", "leave"}
    | {"end_epoch", "end"},
    "jax.distributions": {"clamped"},  # jnp.clip's gradient at a bound is not torch's
}
"""Public functions that only one backend has."""
DIFFER = {"Rollout"}  # where final observations are: at their rows in torch, in an array of all steps in JAX


def public(module: ModuleType) -> dict[str, object]:
    """Functions and classes of a module, its own or compiled of its own."""
    return {
        name: x
        for name, x in vars(module).items()
        if callable(x) and not name.startswith("_") and getattr(x, "__module__", None) == module.__name__
    }


@pytest.mark.parametrize("file", [file for file in FILES if file not in ONE_SIDED])
def test_both_backends_have_the_same_functions_with_the_same_parameters(file: str) -> None:
    found = [public(importlib.import_module(f"runner.{backend}.{file}")) for backend in ("torch", "jax")]
    ours, theirs = (
        {name: x for name, x in some.items() if name not in OWN.get(f"{backend}.{file}", ())}
        for some, backend in zip(found, ("torch", "jax"), strict=True)
    )
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        other = theirs[name]
        assert inspect.isclass(one) == inspect.isclass(other), name
        if name not in DIFFER:
            parameters = [list(inspect.signature(x).parameters) for x in (one, other)]  # type: ignore[arg-type]
            assert parameters[0] == parameters[1], name
        if inspect.isclass(one):
            assert [base.__name__ for base in one.__bases__] == [base.__name__ for base in other.__bases__], name  # type: ignore[attr-defined]


def test_no_file_is_one_sided_without_a_reason() -> None:
    jax = {path.stem for path in (Path(runner.__file__).parent / "jax").glob("*.py")}
    assert jax ^ set(FILES) == set(ONE_SIDED)
