"""Weights & Biases: runs that show the event files which training writes for TensorBoard.

wandb's own process reads them, a folder per run, as they grow: `sync_tensorboard=True` for more than one run in a
process. The package `wandb` is optional and is imported nowhere else.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import Config
from runner.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from wandb import Run

OF_ONE_RUN = ("id", "resume", "resume_from", "fork_from", "reinit")


def check(kwargs: Mapping[str, Any], several: bool) -> None:
    """Refuse `agent.experiment.wandb_kwargs` that `wandb.init` does not take, for one run or several.

    Raises:
        UserError: names the argument; or wandb is not installed.
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
        where = f"agent.experiment.wandb_kwargs.{key}"
        if key not in allowed:
            near = did_you_mean(key, allowed)
            raise UserError(f"{where}: wandb.init has no such argument.{near} Allowed: {', '.join(allowed)}")
        if key in OF_ONE_RUN and several and value is not None:
            raise UserError(f"{where}: leave it out: it is about one run, and every trial has a run of its own")
        if key in ("config", "settings") and not isinstance(value, dict | None):
            raise UserError(f"{where}: found {value!r}; allowed: a mapping")


def check_login(kwargs: Mapping[str, Any]) -> None:
    """Refuse runs without a key, for which wandb would ask on the terminal in the middle of training.

    Raises:
        UserError: nobody is logged in, and the runs are not kept on this machine.
    """
    import wandb

    settings = kwargs.get("settings") or {}
    mode = kwargs.get("mode") or settings.get("mode") or wandb.setup().settings.mode
    asks = mode in ("online", "run", "shared") and not {"api_key", "base_url"} & settings.keys()
    if asks and not wandb.login(prompt=False, verify=False):
        raise UserError(
            "agent.experiment.wandb: True, but wandb has no API key; log in with `wandb login` or WANDB_API_KEY=…, or "
            "set WANDB_MODE=offline to keep the runs on this machine until `wandb sync`"
        )


def start(config: Config, folder: Path, directory: Path, names: Mapping[str, Any], whole: bool) -> Run:
    """Start a run that shows the event files of a folder: what is in them and what will be added.

    Args:
        config: of the trial: what the run shows as its configuration.
        folder: of the event files; it need not be there yet.
        directory: where wandb keeps its own files, unless the user said.
        names: arguments of `wandb.init`; those of `agent.experiment.wandb_kwargs` come first.
        whole: also files that were written before the run started, or on another machine.
    """
    import wandb
    from wandb.proto import wandb_internal_pb2 as messages

    given = {key: value for key, value in config.agent.experiment.wandb_kwargs.items() if value is not None}
    given.pop("tensorboard", None)  # an older name of sync_tensorboard, which is about the one run of a process
    # `create_new` lets many runs live in one process. Each would record all that the process prints.
    arguments = {"reinit": "create_new", "dir": os.environ.get("WANDB_DIR", str(directory)), **names, **given}
    arguments["settings"] = {"console": "off", **names.get("settings", {}), **given.get("settings", {})}
    arguments["config"] = {**config.dump(), **given.get("config", {})}
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(**{**arguments, "sync_tensorboard": False})
    run.define_metric("*", step_metric="global_step")  # wandb's name for an event's step, which is in env steps
    if run._interface is not None:  # as it is in wandb's mode `disabled`
        where = {"log_dir": str(folder.absolute()), "namespace": ""}
        record = messages.TBRecord(**where, ignore_timestamp=whole, ignore_hostname=whole)  # type: ignore[attr-defined]
        run._interface._publish_tbdata(record)
    return run


def address(run: Run) -> str | None:
    """The address of a run; of an offline run the command that sends it there; None if wandb is disabled."""
    if run.offline:
        return f"wandb sync {shlex.quote(str(Path(run.dir).parents[1]))}/offline-run-*"
    return None if run.disabled else run.project_url


def is_gone(error: Exception) -> bool:
    """True for an error that says that wandb's own process has ended, and all runs of this process with it."""
    from wandb.sdk.mailbox import MailboxClosedError

    return isinstance(error, ConnectionError | MailboxClosedError)


def end() -> None:
    """End wandb's own process. Only then is all that was kept offline on the disk: `finish` does not wait for that."""
    import wandb

    with contextlib.suppress(ConnectionError):  # it has ended already
        wandb.teardown()


@contextlib.contextmanager
def member_runs(directory: Path, folders: Sequence[Path], configs: Sequence[Config]) -> Iterator[set[int]]:
    """A run per member of a pack, for a `with` block in which event files are opened and closed.

    Yields a set, for members whose runs are to end as failed ones.

    Args:
        directory: of the experiment, which gives the runs their name.
        folders: of the members: `directory` itself where there is one.
        configs: of the members.

    Raises:
        UserError: a run cannot be started.
    """
    import wandb

    runs: list[Run] = []
    failed: set[int] = set()
    try:
        for folder, config in zip(folders, configs, strict=True):
            one = folder == directory
            names = (
                {"name": folder.name} if one else {"name": f"{directory.name}_{folder.name}", "group": directory.name}
            )
            try:
                runs.append(start(config, folder, folder, names, whole=False))
            except (wandb.Error, OSError, TypeError, ValueError) as error:
                raise UserError(f"agent.experiment.wandb: the run cannot be started: {error}") from None
        yield failed
    except BaseException:
        failed.update(range(len(runs)))
        raise
    finally:
        for member, run in enumerate(runs):
            with contextlib.suppress(Exception):  # what did not arrive is in the run's folder
                run.finish(exit_code=int(member in failed))
