"""Weights & Biases: which arguments its runs can take, and a sink that sends the records of one trial to one run.

The package `wandb` is optional and is imported nowhere else.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import shlex
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from runner.config import Config
from runner.errors import UserError, did_you_mean
from runner.training.tracking import Record

log = logging.getLogger(__name__)

X_AXIS = "env_steps"
WHERE = "agent.experiment.wandb_kwargs"

_OF_ONE_RUN = ("id", "resume", "resume_from", "fork_from", "reinit")
_USELESS = {
    "sync_tensorboard": "every value is sent to wandb already, and would be there twice",
    "tensorboard": "every value is sent to wandb already, and would be there twice",
    "monitor_gym": "EnvPool's environments make no videos",
}
_SETTINGS = {
    "dir": "root_dir",
    "group": "run_group",
    "id": "run_id",
    "job_type": "run_job_type",
    "name": "run_name",
    "notes": "run_notes",
    "tags": "run_tags",
}
"""Argument of `wandb.init` → its name in `wandb.Settings`, which checks it, where they differ."""


def check(kwargs: Mapping[str, Any], several: bool) -> None:
    """Refuse, before anything starts, what wandb could not do.

    Args:
        kwargs: `agent.experiment.wandb_kwargs`.
        several: more than one run will be started with them.

    Raises:
        UserError: wandb is not installed, or nobody is logged in, or it does not take these arguments.
    """
    try:
        # By name: a mere folder `wandb`, which wandb leaves in the working directory, can be imported as well.
        from wandb import init
    except ImportError:
        raise UserError(
            "agent.experiment.wandb: True, but the package wandb is not installed; install it with "
            "`pip install wandb`, or train without it: `--set agent.experiment.wandb=False`"
        ) from None
    allowed = list(inspect.signature(init).parameters)
    for key, value in kwargs.items():
        if key not in allowed:
            raise UserError(
                f"{WHERE}.{key}: wandb.init has no such argument.{did_you_mean(key, allowed)} Allowed: "
                f"{', '.join(allowed)}"
            )
        if key in _USELESS and value:
            raise UserError(f"{WHERE}.{key}: leave it out: {_USELESS[key]}")
        if key in _OF_ONE_RUN and several and value is not None:
            raise UserError(f"{WHERE}.{key}: leave it out: it is about one run, and every trial has a run of its own")
        _check_value(key, value)
    _check_login(kwargs)


def _check_value(key: str, value: Any) -> None:
    """What wandb itself would say, but only as it starts."""
    import wandb

    reason = None
    if value is None:
        return
    if key in ("config", "settings") and not isinstance(value, dict):
        reason = "allowed: a mapping"
    elif key == "tags" and not (isinstance(value, list) and all(isinstance(tag, str) for tag in value)):
        reason = "allowed: a list of texts"
    else:
        name = _SETTINGS.get(key, key)
        values = value if key == "settings" else {name: value} if name in wandb.Settings.model_fields else {}
        try:
            wandb.Settings(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, [key, *first["loc"]])) if key == "settings" else key
            value, reason = first["input"], first["msg"]
            if first["type"] == "extra_forbidden":
                reason = f"no such setting.{did_you_mean(first['loc'][0], wandb.Settings.model_fields)}"
        except (wandb.Error, TypeError, ValueError) as error:
            reason = str(error)
    if reason is not None:
        raise UserError(f"{WHERE}.{key}: found {value!r}; {reason}")


def _check_login(kwargs: Mapping[str, Any]) -> None:
    """Without a key wandb would ask for it on the terminal, in the middle of training."""
    import wandb

    settings = kwargs.get("settings") or {}
    mode = kwargs.get("mode") or settings.get("mode") or wandb.setup().settings.mode
    if mode not in ("online", "run", "shared") or {"api_key", "base_url"} & settings.keys():
        return
    if not wandb.login(prompt=False, verify=False):
        raise UserError(
            "agent.experiment.wandb: True, but wandb has no API key; log in with `wandb login` or WANDB_API_KEY=…, or "
            "set WANDB_MODE=offline to keep the runs on this machine until `wandb sync`"
        )


class WandbRun:
    """Sends records of one trial to one run, as `TensorBoard` does: one row per record, env steps on the x axis.

    Attributes:
        where: the runs' address; for offline runs the command that sends them to one; None if wandb is disabled.
    """

    def __init__(self, directory: Path, config: Config, defaults: Mapping[str, Any], points: int | None = None) -> None:
        """Start a run, or continue one.

        Args:
            directory: where wandb keeps its files, unless the user said.
            config: of the trial: what the run shows as its configuration.
            defaults: arguments of `wandb.init`; those of `agent.experiment.wandb_kwargs` come first.
            points: how many the run has from an earlier process; None if wandb is to find out.

        Raises:
            wandb.Error: the run cannot be started.
        """
        import wandb

        given = {key: value for key, value in config.agent.experiment.wandb_kwargs.items() if value is not None}
        # `create_new` lets many runs live in one process. Each would record all that the process prints.
        arguments: dict[str, Any] = {"reinit": "create_new", **defaults, **given}
        arguments["settings"] = {"console": "off", **defaults.get("settings", {}), **given.get("settings", {})}
        arguments["config"] = {**config.dump(), **given.get("config", {})}
        if "WANDB_DIR" not in os.environ:
            arguments.setdefault("dir", str(directory))
        self._points = points
        self._run = wandb.init(**arguments)
        self.where = None if self._run.disabled or self._run.offline else self._run.project_url
        if self._run.offline:
            self.where = f"wandb sync {shlex.quote(str(Path(self._run.dir).parents[1]))}/offline-run-*"
        self._run.define_metric(X_AXIS)
        self._run.define_metric("*", step_metric=X_AXIS)

    def write(self, env_steps: int, values: Mapping[str, float], wall_time: float) -> None:
        """Append one row with every value of `values` at x = `env_steps`; `wall_time` is Unix seconds."""
        # wandb ignores a row whose step it has already: what a crash makes us repeat is not there twice.
        self._run.log({**values, X_AXIS: env_steps, "_timestamp": wall_time}, step=self._points, commit=True)
        if self._points is not None:
            self._points += 1

    def close(self, failed: bool = False) -> None:
        """Hand over what is left and end the run; the object is unusable afterwards."""
        self._run.finish(exit_code=int(failed))


def restart() -> None:
    """Give up wandb's process, and with it all runs of this one: the next run starts another."""
    import wandb

    with contextlib.suppress(Exception):  # it says that it cannot be reached
        wandb.teardown()


class PackRuns:
    """A run for each member of a pack, in a `with` block. Once started, errors are logged and do not stop training."""

    def __init__(self, directory: Path, folders: Sequence[Path], configs: Sequence[Config]) -> None:
        """Start the runs.

        Args:
            directory: of the experiment, which gives the runs their name.
            folders: of the members: `directory` itself where there is one.
            configs: of the members.

        Raises:
            UserError: one cannot be started.
        """
        import wandb

        self._runs: list[WandbRun] = []
        try:
            for folder, config in zip(folders, configs, strict=True):
                names = {"name": directory.name}
                if folder != directory:
                    names = {"name": f"{directory.name}_{folder.name}", "group": directory.name}
                self._runs.append(WandbRun(folder, config, names))
        except BaseException as error:
            self._close(failed=range(len(self._runs)))
            if isinstance(error, wandb.Error | OSError | ValueError):
                raise UserError(f"agent.experiment.wandb: the run cannot be started: {error}") from None
            raise
        self._broken: set[int] = set()
        self._diverged: set[int] = set()

    def write(self, records: Sequence[Record | None], diverged: Sequence[int]) -> None:
        """Send what the members report; None for nothing. Runs of the `diverged` members will end as failed ones."""
        for member, (run, record) in enumerate(zip(self._runs, records, strict=True)):
            if record is not None and member not in self._broken:
                try:
                    run.write(record.env_steps, record.values, time.time())
                except Exception:  # whatever it is, training goes on
                    log.exception("wandb gets no more of member %s", member)
                    self._broken.add(member)
        self._diverged.update(diverged)

    def __enter__(self) -> PackRuns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(self._diverged if kind is None else range(len(self._runs)))

    def _close(self, failed: Container[int]) -> None:
        for member, run in enumerate(self._runs):
            with contextlib.suppress(Exception):
                run.close(member in failed)
