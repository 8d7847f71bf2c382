"""A launch that goes on: place, show, connect, train, tell. Here, on a cluster's head, and as a dry run alike."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launcher.cluster.preflight import placed
from launcher.ledger.ledger import Ledger, reading
from launcher.ledger.rows import LOST_STATES, Stage, State, goes_on
from launcher.ledger.storage import is_launch
from launcher.plan import directory as folder
from launcher.plan import resume as continuing
from launcher.plan.cores import Programs, idle, measure, settle
from launcher.plan.estimate import estimate
from launcher.plan.experiment import Placement, Trial, form_packs
from launcher.plan.resources import KEPT, Offer, Resources, look, place, workers_now
from launcher.plan.resume import Request
from launcher.plan.revision import revision as revision_of
from launcher.run import output, signals
from launcher.search import results
from launcher.search.methods import advance, scheduler_of
from launcher.watch import progress, status
from launcher.watch.tables import duration, say
from runner import group
from runner.errors import UserError
from runner.training.pack import static_key

if TYPE_CHECKING:
    from launcher.run.dispatch import Result


def resume(console: Console, directory: Path, request: Request) -> int:
    """Continue the launch of a directory that nobody is at work at; returns the exit status."""
    folder.refuse_running(directory)
    # What is no launch is not written to; `proceed` says so.
    write = not request.dry_run and is_launch(directory)
    with folder.working(directory) if write else contextlib.nullcontext():
        return proceed(console, directory, request)


def proceed(console: Console, directory: Path, request: Request) -> int:
    """Let the launch of a directory that one has for oneself go on: one that was just created, or an old one."""
    folder.allow_recorded(directory)
    if not request.dry_run and is_launch(directory):
        advance(directory)
    more = continuing.read(directory, request.seeds, request.settings, request.retry_failed)
    for note in more.notes:
        say(console, note, "dim")
    if not more.todo:
        return 0 if more.all_finished else 1
    wanted = _as_before(console, directory, request.resources)
    refuse((trial for trial, _ in more.todo), wanted)
    session = Session(console, directory, more.todo, wanted, more.search)
    if request.dry_run:
        return session.show()
    continuing.write(directory, more)
    return session.go_on(request.command)


def _as_before(console: Console, directory: Path, wanted: Resources) -> Resources:
    """The resources to use: those asked for, and of the last time what holds on, which is said."""
    last = folder.last_revision(directory) or {}
    kept = wanted.kept(last.get("flags", {}))
    if kept:
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in kept.items())
        say(console, f"As before: {flags}", "dim")
    return replace(wanted, **kept)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Session:
    """Trials to be trained in a launch directory, each from a timestep on, and what they may use.

    On a dry run the directory may not be there.
    """

    console: Console
    directory: Path
    todo: Sequence[tuple[Trial, int]]
    wanted: Resources
    search: bool

    def show(self) -> int:
        """Print the plan, and change nothing."""
        from launcher.cluster.connect import connected

        configurations = self._configurations(login=False)
        programs = check_environments(configurations, devices=self._devices)
        with contextlib.nullcontext() if self.wanted.address is None else connected(self.wanted.address):
            placement, offer, packs = self._place()
            placement = self._settle(placement, offer, packs, programs)
        # What a search will stop and add is not known.
        expected = None if self.search else estimate(packs, self._begins, placement, self.directory.parent)
        if expected is not None:
            time_left = f"About {duration(expected.seconds)} of training, and some seconds for Ray to start"
            say(self.console, f"{time_left} ({expected.source})", "dim")
        return 0

    def go_on(self, command: str) -> int:
        """Train; returns 0: all trials finished; 1: any failed, diverged or missing; 128 + signal: interrupted."""
        from launcher.cluster.connect import connected

        began = time.monotonic()
        configurations = self._configurations(login=True)
        here = self._place() if self.wanted.address is None else None
        measured = here is not None and idle(here[0], here[2], self.wanted)
        check = partial(check_environments, configurations, measured, self._devices)
        # EnvPool takes seconds to import, in which Ray can start. Some of Python's environments, such as those that
        # handle signals, can only be made in the main thread.
        now = "envpool" in sys.modules or any(trial.config.env.of_python for trial in configurations)
        with signals.kept():
            found = check() if now else None
        with ThreadPoolExecutor(1) as beside:
            checked = beside.submit(lambda: found or check())
            with connected(self.wanted.address, here and here[0]):
                programs = checked.result()
                placement, offer, packs = here or self._place()
                placement = self._settle(placement, offer, packs, programs)
                revision = revision_of(command, placement, packs, {name: getattr(self.wanted, name) for name in KEPT})
                for line in folder.add_revision(self.directory, revision):
                    say(self.console, line, "yellow")
                before = self._trained_before()
                try:
                    result = self._train(packs, placement)
                except BaseException:
                    say_how_to_continue(self.console, self.directory, {"interrupted"})
                    raise
                finally:
                    folder.fold(self.directory)
        status.show_result(self.console, self.directory, time.monotonic() - began, before)
        if result.error is None and not result.stopped_by:
            _show_winner(self.console, self.directory)
        return _status(self.console, self.directory, result)

    @property
    def _begins(self) -> dict[str, int]:
        return {trial.id: timestep for trial, timestep in self.todo}

    @property
    def _devices(self) -> int:
        return self.wanted.devices(trial.config for trial, _ in self.todo)

    def _configurations(self, login: bool) -> list[Trial]:
        """One trial of each configuration, all seeds of which have its name; wandb could start for them."""
        configurations = list({trial.name: trial for trial, _ in self.todo}.values())
        _check_wandb(self.console, configurations, login)
        return configurations

    def _place(self) -> tuple[Placement, Offer, list[list[Trial]]]:
        """Decide where which packs are trained, and print that."""
        configs = [trial.config for trial, _ in self.todo]
        placement, offer = placed(self.console, self.wanted, configs, self._devices)
        packs = form_packs(self.todo, placement.workers, self.wanted.trials_per_pack, whole=self.search)
        progress.show_plan(self.console, self.directory, packs, placement, self._begins, self.search)
        if not placement.on_gpus and any(trial.config.agent.mixed_precision for trial, _ in self.todo):
            say(self.console, "agent.mixed_precision: no effect on CPU workers, where float32 is faster", "dim")
        return placement, offer, packs

    def _settle(
        self, placement: Placement, offer: Offer, packs: Sequence[Sequence[Trial]], programs: Programs
    ) -> Placement:
        """Decide how many cores workers have; print that, and what a person should know of the environments."""
        from runner.networks.policies import remark

        for name, config in {trial.name: trial.config for pack in packs for trial in pack}.items():
            env, _ = programs[static_key(config)]
            if (note := remark(config.models.policy, env.actions, env.layout)) is not None:
                say(self.console, f"{name}: {note}", "dim")
        if placement.gpus:
            return placement
        kept = folder.arithmetic_threads(self.directory)
        placement = settle(placement, packs, programs, self.wanted, offer, kept)
        progress.show_cores(self.console, placement)
        return placement

    def _trained_before(self) -> int:
        """Env steps that need not be trained any more: of trials that are over, and up to the others' checkpoints."""
        begin = self._begins
        with reading(self.directory) as ledger:
            return sum(
                begin[row.trial.id] * row.trial.num_envs if row.trial.id in begin else row.env_steps
                for row in ledger.progress(saved=True)
            )

    def _train(self, packs: Sequence[Sequence[Trial]], placement: Placement) -> Result:
        """Train all packs on the connected Ray, and what a search adds to them, shown and exported."""
        from launcher.export.tensorboard import TensorBoardExport
        from launcher.export.wandb import WandbExport
        from launcher.run import dispatch

        console, directory = self.console, self.directory
        shown = {trial.id: trial.config for pack in packs for trial in pack if trial.config.agent.experiment.wandb}
        wandb = WandbExport(directory, shown) if shown else None
        export = TensorBoardExport(directory, wandb)
        scheduler = scheduler_of(directory, packs, self.wanted.trials_per_pack)
        with progress.View(console, directory) as view:

            def watch(refusing: float) -> None:
                view.refresh(refusing)
                export.poll()
                _say_lost_output(directory)

            try:
                return dispatch.run(directory, packs, placement, watch, view.say, self._room(placement), scheduler)
            finally:
                export.close()
                if wandb is not None:
                    wandb.close()
                    if wandb.where is not None:
                        say(console, f"wandb:       {wandb.where}")

    def _room(self, placement: Placement) -> Callable[[], int] | None:
        """The number of workers that there may be now, where nobody has counted them and machines come and go."""
        if self.wanted.address is None or self.wanted.workers is not None or self.wanted.gpus is not None:
            return None
        return lambda: workers_now(self.wanted, placement, look(self.wanted))


def _show_winner(console: Console, directory: Path) -> None:
    """Say what has won a search, and whether fresh seeds confirm it; write its configuration where a report does."""
    with reading(directory) as ledger:
        found = results.read(ledger)
    if found is not None:
        from launcher.report.panels import search

        file = search.write_winner(directory, directory / "report" / search.WINNER)
        for line in search.claims(found, file):
            say(console, line)


def _status(console: Console, directory: Path, result: Result) -> int:
    """Say what is to be done next; returns the exit status."""
    with reading(directory) as ledger:
        states, search = set(ledger.states().values()), ledger.search()
        lost = _unsaved(ledger) if result.stopped_by else 0
    if result.error:
        say(console, f"{result.error}; make room, then continue", "red")
    say_how_to_continue(console, directory, states, search)
    if result.stopped_by:
        saved = f"{lost:,} env steps since the last checkpoints are lost" if lost else "what was trained is saved"
        say(console, f"Interrupted by {signal.Signals(result.stopped_by).name}; {saved}.")
    _say_lost_output(directory)
    if result.stopped_by:
        return 128 + result.stopped_by
    return 1 if result.error or goes_on(states, search) or states & {*LOST_STATES} else 0


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


def say_how_to_continue(
    console: Console, directory: Path, states: Collection[State], search: Stage | None = None
) -> None:
    """Print the command that continues a launch with trials in these `states`, if there is one."""
    more = goes_on(states, search)
    # What failed in a search has been decided by.
    if more or (search is None and "failed" in states):
        say(console, f"Continue:    launch resume {shlex.quote(str(directory))}{'' if more else ' --retry-failed'}")


def refuse(trials: Iterable[Trial], wanted: Resources) -> None:
    """Refuse, before anything is written, configurations without an environment and what this machine cannot give."""
    wanted.check()
    named = {trial.name: trial for trial in trials}
    for trial in named.values():
        if trial.config.env.id is None:
            raise UserError(f"{trial.name}: env.id is required: name it in the file (env: {{id: …}}) or with --env")
        if trial.config.env.num_envs is None:
            raise UserError(f"{trial.name}: env.num_envs is required: name it in the file or with --num-envs")
    if wanted.address is None:
        place(wanted, look(wanted), wanted.devices(trial.config for trial in named.values()))


def check_environments(trials: Sequence[Trial], measured: bool = False, devices: int = 1) -> Programs:
    """Refuse what no worker could train: unknown environments and arguments, policies and networks that do not fit.

    The trials are one of each configuration, on so many devices each; `measured`, what steps of their environments cost
    is measured, too.
    """
    from runner.envs.agents.fitting import fitted
    from runner.envs.task import task
    from runner.networks.parameters import Network

    programs: Programs = {}
    for trial in trials:
        config = trial.config
        key = static_key(config)
        if key in programs:
            continue
        try:
            env = fitted(task(config.env), config)
            if devices > 1:
                group.refuse(env, config, devices)
            programs[key] = env, Network.of(config, env.layout, env.actions)
            env.close()
        except UserError as error:
            error.args = (f"{trial.name}: {error}",)
            raise
    if measured:
        measure(trials)
    return programs


def _check_wandb(console: Console, trials: Sequence[Trial], login: bool) -> None:
    """Refuse what would keep wandb, where it is asked for, from starting; a missing login only if that is needed."""
    from runner.training import wandb as weights_and_biases

    asked = {repr(e.wandb_kwargs): t for t in trials if (e := t.config.agent.experiment).wandb}
    for trial in asked.values():
        kwargs = trial.config.agent.experiment.wandb_kwargs
        try:
            weights_and_biases.check(kwargs, several=True)
            try:
                weights_and_biases.check_login(kwargs)
            except UserError as error:
                if login:
                    raise
                say(console, f"{trial.name}: {error}", "yellow")
        except UserError as error:
            raise UserError(f"{trial.name}: {error}") from None
