"""The revision that a launch or resume is: its command, code, versions of packages, imports, machine, packs."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.plan.experiment import Placement, Trial
from runner.checkpoints.checkpoint import versions
from runner.cores import usable_cores
from runner.envs.named import imports

COMMIT = "SUNFLOWER_COMMIT"
"""Variable that names the commit of code that has travelled, as to a cluster's head."""


def revision(
    command: str, placement: Placement, packs: Sequence[Sequence[Trial]], flags: Mapping[str, int | None] | None = None
) -> dict[str, Any]:
    """The revision of a launch that begins or goes on now, with these flags that a resume keeps."""
    return {
        "command": command,
        "time": time.time(),
        "versions": {"python": platform.python_version(), **versions()},
        "git_commit": git_commit(),
        "hardware": hardware(),
        "imports": imported(),
        "placement": asdict(placement),
        "flags": dict(flags or {}),
        "packs": [[trial.id for trial in pack] for pack in packs],
    }


def software() -> dict[str, str]:
    """This program's version, its commit where it runs from a repository, and the versions of what it runs on."""
    found = versions()
    code = {"code": commit} if (commit := git_commit()) else {}
    sunflower = {"sunflower": found.pop("sunflower", "(not installed)")}
    return {**sunflower, **code, "python": platform.python_version(), **found}


def hardware() -> dict[str, Any]:
    """This machine."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": usable_cores(),
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def imported() -> dict[str, dict[str, Any]]:
    """Modules that were allowed to be imported for environments: where from, which version, who allowed it."""
    found = imports.recorded()
    for module, entry in found.items():
        origin = imports.origin(module)
        file = origin / "__init__.py" if origin is not None and origin.is_dir() else origin
        entry["git_commit"] = None if file is None else _commit_of(file)
    return found


def git_commit() -> str | None:
    """Commit of this code, with `+` if files were changed; None where it is in no repository of its own."""
    if COMMIT in os.environ:
        return os.environ[COMMIT] or None
    return _commit_of(Path(__file__))


def _commit_of(here: Path) -> str | None:
    """The commit of the repository that has this file."""
    # An environment may be inside another repository, and a hook of git's names yet another.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here.parent, env=ours, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout

    try:
        git("ls-files", "--error-unmatch", here.name)
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`torch 2.12.0 → 2.13.0`, for each package, the code, and each part of the machine."""
    known = before.get("git_commit") and after.get("git_commit")  # else nobody can say that it changed
    flat = [
        ({"code": short_commit(revision)} if known else {})
        | {**revision.get("versions", {}), **revision.get("hardware", {})}
        | {module: entry["git_commit"] or entry["version"] for module, entry in revision.get("imports", {}).items()}
        for revision in (before, after)
    ]
    return [f"{name} {flat[0].get(name)} → {value}" for name, value in flat[1].items() if flat[0].get(name) != value]


def short_commit(revision: Mapping[str, Any]) -> str:
    """The commit of a revision that has one, as people are shown it."""
    commit = str(revision["git_commit"])
    return f"{commit[:12]}+" if commit.endswith("+") else commit[:12]
