"""One launch or resume from its plan to its exit status: place, show, connect, train, tell."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launcher.plan import directory as folder
from launcher.plan.cores import Programs, idle, measure, settle
from launcher.plan.estimate import estimate
from launcher.plan.experiment import Placement, Trial, form_packs
from launcher.plan.resources import Resources, gpu_note, place, workers_now
from launcher.run import output
from launcher.watch import progress
from launcher.watch.tables import duration
from runner.errors import UserError
from runner.training.pack import static_key

if TYPE_CHECKING:
    from launcher.ledger.ledger import Ledger
    from launcher.run.dispatch import Result


def conduct(
    console: Console,
    directory: Path,
    trials: Sequence[tuple[Trial, int]],
    wanted: Resources,
    dry_run: bool,
    prepare: Callable[[], tuple[Path, Callable[[], None]]],
) -> int:
    """Train trials.

    Args:
        console: where to tell.
        directory: of the launch.
        trials: each with the timestep that it goes on from.
        wanted: what may be used.
        dry_run: only show the plan.
        prepare: writes what the launch directory needs before the first attempt, and returns it and what takes it back.
            It is called before Ray starts, which takes seconds.

    Returns:
        The exit status: 0 all trials finished; 1 any failed, diverged or missing; 128 + signal when interrupted.

    Raises:
        UserError: nothing was begun.
    """
    from launcher.cluster import connect as cluster
    from launcher.cluster import preflight

    wanted.check()
    # All seeds of a configuration have its name.
    configurations = list({trial.name: trial for trial, _ in trials}.values())
    check_names(configurations)
    _check_wandb(console, configurations, dry_run)
    programs = _check_environments(configurations) if dry_run or "envpool" in sys.modules else None
    began = time.monotonic()
    begin = dict(_begins(trials))
    placement = place(wanted) if wanted.address is None else None
    if (note := gpu_note(wanted)) is not None:
        console.print(note, style="yellow", highlight=False, soft_wrap=True)

    packs_on = partial(_show_packs, console, trials, wanted)
    with_cores = partial(_settle, console, wanted, begin, dry_run)
    if placement is not None and programs is not None and dry_run:
        with_cores(directory, placement, packs_on(directory, placement), programs)
        return 0
    with contextlib.ExitStack() as stack:
        if not dry_run:
            directory, undo = prepare()
            stack.callback(undo)
        packs = packs_on(directory, placement) if placement is not None else []
        ahead = placement is not None and idle(placement, packs, wanted)
        # The environments take seconds to import and to measure, in which Ray can start.
        checked = stack.enter_context(ThreadPoolExecutor(1)).submit(_check_environments, configurations, ahead)
        with cluster.connected(wanted.address, placement):
            programs = checked.result()
            if placement is None:
                placement = place(wanted)
                preflight.check(console, {placement.backend(trial.config) for trial, _ in trials}, placement.on_gpus)
                packs = packs_on(directory, placement)
            placement = with_cores(directory, placement, packs, programs)
            if dry_run:
                return 0
            command = shlex.join(["launch", *sys.argv[1:]])
            for line in folder.add_revision(directory, folder.revision(command, placement, packs)):
                console.print(line, style="yellow", highlight=False, soft_wrap=True)
            before = _trained_before(directory, trials)
            stack.pop_all()  # from here on there is something to continue
            try:
                # What nobody has counted follows the machines that come and go.
                elastic = wanted.address is not None and wanted.workers is None and wanted.gpus is None
                room = partial(workers_now, wanted, placement) if elastic else None
                result = _train(console, directory, packs, placement, room)
            except BaseException:
                say_how_to_continue(console, directory)
                raise
            finally:
                folder.fold(directory)
    progress.show_result(console, directory, time.monotonic() - began, before)
    return _status(console, directory, result)


def _show_packs(
    console: Console,
    trials: Sequence[tuple[Trial, int]],
    wanted: Resources,
    directory: Path,
    placement: Placement,
) -> list[list[Trial]]:
    """Form packs and print the plan."""
    packs = form_packs(trials, placement.workers, wanted.trials_per_pack)
    progress.show_plan(console, directory, packs, placement, dict(_begins(trials)))
    if not placement.on_gpus and any(trial.config.agent.mixed_precision for trial, _ in trials):
        console.print("agent.mixed_precision: no effect on CPU workers, where float32 is faster", style="dim")
    return packs


def _remark(console: Console, packs: Sequence[Sequence[Trial]], programs: Programs) -> None:
    """Print what a person should know of configurations in their environments."""
    from runner.networks.policies import remark

    configurations = {trial.name: trial.config for pack in packs for trial in pack}
    for name, config in configurations.items():
        env, _ = programs[static_key(config)]
        if (note := remark(config.models.policy, env.actions)) is not None:
            console.print(f"{name}: {note}", style="dim", highlight=False, soft_wrap=True)


def _settle(
    console: Console,
    wanted: Resources,
    begin: Mapping[str, int],
    dry_run: bool,
    directory: Path,
    placement: Placement,
    packs: Sequence[Sequence[Trial]],
    programs: Programs,
) -> Placement:
    """Decide how many cores workers have, and print that and, on a dry run, how long it will take."""
    _remark(console, packs, programs)
    if not placement.gpus:
        placement = settle(placement, packs, programs, wanted, folder.arithmetic_threads(directory))
        progress.show_cores(console, placement)
    expected = estimate(packs, begin, placement, directory.parent) if dry_run else None
    if expected is not None:
        time_left = f"About {duration(expected.seconds)} of training, and some seconds for Ray to start"
        console.print(f"{time_left} ({expected.source})", style="dim", highlight=False, soft_wrap=True)
    return placement


def _begins(trials: Sequence[tuple[Trial, int]]) -> list[tuple[str, int]]:
    return [(trial.id, timestep) for trial, timestep in trials]


def _trained_before(directory: Path, trials: Sequence[tuple[Trial, int]]) -> int:
    """Env steps that need not be trained any more: of trials that are over, and up to the checkpoints of the others."""
    from launcher.ledger.ledger import Ledger

    begin = dict(_begins(trials))
    with Ledger(directory, writer=False) as ledger:
        return sum(
            begin[row.trial.id] * row.trial.num_envs if row.trial.id in begin else row.env_steps
            for row in ledger.progress(saved=True)
        )


def _train(
    console: Console,
    directory: Path,
    packs: Sequence[Sequence[Trial]],
    placement: Placement,
    room: Callable[[], int] | None,
) -> Result:
    """Train all packs on the connected Ray, shown and exported."""
    from launcher.export.tensorboard import TensorBoardExport
    from launcher.export.wandb import WandbExport
    from launcher.run import dispatch

    shown = {trial.id: trial.config for pack in packs for trial in pack if trial.config.agent.experiment.wandb}
    wandb = WandbExport(directory, shown) if shown else None
    export = TensorBoardExport(directory, wandb)
    with progress.View(console, directory) as view:

        def watch(refusing: float) -> None:
            view.refresh(refusing)
            export.poll()
            _say_lost_output(directory)

        try:
            return dispatch.run(directory, packs, placement, watch, view.say, room)
        finally:
            export.close()
            if wandb is not None:
                wandb.close()
                if wandb.where is not None:
                    console.print(f"wandb:       {wandb.where}", soft_wrap=True, highlight=False)


def _status(console: Console, directory: Path, result: Result) -> int:
    """Say what is to be done next; returns the exit status."""
    from launcher.ledger.ledger import Ledger

    with Ledger(directory, writer=False) as ledger:
        states = {row.state for row in ledger.trials()}
        lost = _unsaved(ledger) if result.stopped_by else 0
    if result.error:
        console.print(f"[red]{result.error}[/]; make room, then continue", soft_wrap=True, highlight=False)
    if states - {"finished", "diverged"}:
        say_how_to_continue(console, directory, states)
    if result.stopped_by:
        saved = f"{lost:,} env steps since the last checkpoints are lost" if lost else "what was trained is saved"
        console.print(f"Interrupted by {signal.Signals(result.stopped_by).name}; {saved}.", highlight=False)
    _say_lost_output(directory)
    if result.stopped_by:
        return 128 + result.stopped_by
    return 0 if states == {"finished"} else 1


def _unsaved(ledger: Ledger) -> int:
    """Env steps that were trained and that no checkpoint holds."""
    all_, saved = (sum(row.env_steps for row in ledger.progress(saved=saved)) for saved in (False, True))
    return all_ - saved


def _say_lost_output(directory: Path) -> None:
    """Say on stderr, once, that what is printed is lost."""
    error = output.lost()
    if error is not None:
        output.excuse()
        print(
            f"stdout cannot be written ({error.strerror}); the launch does not need it: launch status "
            f"{shlex.quote(str(directory))} shows how it stands",
            file=sys.stderr,
        )


def say_how_to_continue(console: Console, directory: Path, states: Collection[str] = ()) -> None:
    """Print the command that continues a launch with trials in these `states`."""
    only_failed = "failed" in states and set(states) <= {"finished", "diverged", "failed"}
    flag = " --retry-failed" if only_failed else ""
    console.print(f"Continue:    launch resume {shlex.quote(str(directory))}{flag}", soft_wrap=True, highlight=False)


def check_names(trials: Sequence[Trial]) -> None:
    """Refuse configurations that say nothing of an environment.

    Raises:
        UserError: naming the trial's configuration.
    """
    for trial in trials:
        if trial.config.env.id is None:
            raise UserError(f"{trial.name}: env.id is required: name it in the file (env: {{id: …}}) or with --env")
        if trial.config.env.num_envs is None:
            raise UserError(f"{trial.name}: env.num_envs is required: name it in the file or with --num-envs")


def _check_environments(trials: Sequence[Trial], measured: bool = False) -> Programs:
    """Refuse what no worker could train: unknown environments and arguments, policies and networks that do not fit.

    Args:
        trials: one of each configuration.
        measured: also measure what steps of the environments cost.

    Returns:
        Static key → environment and network.

    Raises:
        UserError: naming the trial's configuration.
    """
    from runner.envs.task import task
    from runner.networks.parameters import Network

    programs: Programs = {}
    for trial in trials:
        config = trial.config
        key = static_key(config)
        if key in programs:
            continue
        try:
            env = task(config.env)
            programs[key] = env, Network.of(config, env.layout, env.actions)
            env.close()
        except UserError as error:
            raise UserError(f"{trial.name}: {error}") from None
    if measured:
        measure(trials)
    return programs


def _check_wandb(console: Console, trials: Sequence[Trial], dry_run: bool) -> None:
    """Refuse what would keep wandb, where it is asked for, from starting; a dry run needs no login.

    Raises:
        UserError: naming the trial's configuration.
    """
    from runner.training import wandb as weights_and_biases

    asked = {repr(e.wandb_kwargs): t for t in trials if (e := t.config.agent.experiment).wandb}
    for trial in asked.values():
        kwargs = trial.config.agent.experiment.wandb_kwargs
        try:
            weights_and_biases.check(kwargs, several=True)
            try:
                weights_and_biases.check_login(kwargs)
            except UserError as error:
                if not dry_run:
                    raise
                console.print(f"{trial.name}: {error}", style="yellow", highlight=False, soft_wrap=True)
        except UserError as error:
            raise UserError(f"{trial.name}: {error}") from None
