"""The launch directory: made once, never overwritten, complete enough to reproduce what ran.

OUT/NAME/  plan.json  ledger.sqlite  tensorboard/  logs/attempt-<n>.log
           trials/<trial>/ config.yaml  checkpoints/agent_<timestep>.safetensors  best_agent.safetensors
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from launcher.ledger import Ledger, TrialRow
from launcher.plan import Placement, Trial, slug
from runner.checkpoint import versions, write_file
from runner.config import load_config
from runner.errors import UserError


def choose_directory(trials: Sequence[Trial], out: Path | None, name: str | None) -> Path:
    """`OUT/NAME`: the flags, else the first configuration's experiment section, else `runs` and its name and time.

    Raises:
        UserError: it exists already.
    """
    first = trials[0]
    experiment = first.config.agent.experiment
    base = out or Path(experiment.directory or "runs")
    default = experiment.experiment_name or f"{first.name}_{datetime.now():%y-%m-%d_%H-%M-%S}"
    directory = (base / slug(name or default)).absolute()
    if directory.exists():
        raise UserError(
            f"{directory}: exists already and is never overwritten; choose another --name or --out, or continue it "
            f"with launch resume {directory}"
        )
    return directory


def create(directory: Path, trials: Sequence[Trial], revision: dict[str, Any]) -> None:
    """Make the directory with every trial's resolved configuration, the ledger and the first plan revision.

    Raises:
        UserError: it exists, or cannot be written.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(exist_ok=False)
        for trial in trials:
            text = yaml.safe_dump(trial.config.dump(), sort_keys=False)
            folder = directory / "trials" / trial.id
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(text, encoding="utf-8")
        write_plan(directory, revision, trials)
    except FileExistsError:
        raise UserError(f"{directory}: exists already and is never overwritten; choose another --name") from None
    except OSError as error:
        raise UserError(f"{directory}: cannot be written: {error.strerror}") from None
    with Ledger(directory) as ledger:
        ledger.add_trials(
            TrialRow(
                trial=trial.id,
                config=trial.name,
                seed=trial.config.seed or 0,
                num_envs=trial.config.env.num_envs or 0,
                timesteps=trial.config.updates * trial.config.agent.rollouts,
            )
            for trial in trials
        )


def write_plan(directory: Path, revision: dict[str, Any], trials: Sequence[Trial] = ()) -> None:
    """Append a revision to plan.json; the first one brings the trials."""
    path = directory / "plan.json"
    plan = json.loads(path.read_text()) if path.exists() else {"trials": [], "revisions": []}
    plan["trials"] += [{"id": t.id, "name": t.name, "seed": t.config.seed} for t in trials]
    plan["revisions"].append(revision)
    write_file(path, (json.dumps(plan, indent=2) + "\n").encode())


def read_trials(directory: Path) -> list[Trial]:
    """The trials of an existing launch.

    Raises:
        UserError: not a launch directory, or damaged.
    """
    path = directory / "plan.json"
    try:
        plan = json.loads(path.read_text())
        return [
            Trial(row["id"], row["name"], load_config(directory / "trials" / row["id"] / "config.yaml")[0])
            for row in plan["trials"]
        ]
    except FileNotFoundError:
        raise UserError(f"{directory}: not a launch directory: it has no plan.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged: {error}") from None


def revision(command: str, placement: Placement, packs: Sequence[Sequence[Trial]]) -> dict[str, Any]:
    """What a launch or resume was: command, time, versions, code, hardware, packs."""
    return {
        "command": command,
        "time": time.time(),
        "versions": {"python": platform.python_version(), **versions()},
        "git_commit": _git_commit(),
        "hardware": {
            "host": platform.node(),
            "system": platform.platform(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "processor": _processor(),
        },
        "placement": asdict(placement),
        "packs": [[trial.id for trial in pack] for pack in packs],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _git_commit() -> str | None:
    """Commit of the repository that this code is in, with `+` if files were changed; None outside one."""
    here = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")
