"""The verbs of the `launch` command: parse, validate, plan, run, report."""

from __future__ import annotations

import contextlib
import difflib
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console

from launcher.plan import Experiment, Placement, Trial, form_packs, read_experiment
from launcher.sweep import group_by_flag
from runner.config.load import Key, dump
from runner.errors import UserError
from runner.pack import static_key

EXAMPLES = """\
Examples:

  launch configs/classic/cartpole.yaml --seeds 8

  launch configs/skrl/ppo.yaml --env Pendulum-v1 --num-envs 64 --seeds 8

  launch cfg.yaml --seeds 0-4 --set agent.learning_rate=1e-4,3e-4 --dry-run
"""
VERBS = {
    "resume": "continue a launch that was interrupted or failed",
    "status": "show how a launch stands",
    "logs": "show what the workers of a launch printed",
}
LATER = ("eval", "report", "follow", "stop", "pull")
"""Verbs of later versions: named in hints so that nobody takes them for a file."""

app = App(
    name="launch",
    help="Train PPO from skrl-style YAML files over many seeds and settings.",
    help_epilogue=EXAMPLES,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    version_flags=[],
)


@app.default
def train(
    *cfgs: Annotated[Path, Parameter(help="Configuration files; each is a configuration.", negative=())],
    seeds: Annotated[str | None, Parameter(help="8 (base seed + 0…7), 0-7, or 3,5,7.")] = None,
    env: Annotated[str | None, Parameter(help="Environment id of EnvPool.")] = None,
    num_envs: Annotated[int | None, Parameter(help="Environments of one trial.")] = None,
    backend: Annotated[str | None, Parameter(help="torch or jax; default whichever is faster here.")] = None,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            help="a.b=value. Alternatives: 1,2; 0..1/5 in equal steps; 1e-5..1e-2/4 in equal ratios.",
            negative=(),
            allow_leading_hyphen=True,
        ),
    ] = None,
    zip_: Annotated[
        list[list[str]] | None,
        Parameter(
            name="--zip",
            help="a.b=1,2 c.d=3,4: alternatives that advance together. Files stand before it.",
            negative=(),
            consume_multiple=True,
            converter=group_by_flag,
        ),
    ] = None,
    workers: Annotated[int | None, Parameter(help="Worker processes; default one per core or GPU.")] = None,
    gpus: Annotated[int | None, Parameter(help="GPUs to use; default all that Ray finds.")] = None,
    logical_gpus: Annotated[
        bool, Parameter(name="--logical-gpus", help="Only count GPUs: for tests and dry runs.", negative=())
    ] = False,
    name: Annotated[str | None, Parameter(help="Name of the launch; default config and time.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder for launches; default runs.")] = None,
    address: Annotated[str | None, Parameter(help="Ray cluster: auto or HOST:PORT.")] = None,
    dry_run: Annotated[bool, Parameter(help="Show the plan and stop.", negative=())] = False,
    show_config: Annotated[
        bool, Parameter(help="With --dry-run: show the configurations as they were read, as YAML.", negative=())
    ] = False,
    debug: Annotated[bool, Parameter(help="Show tracebacks.", negative=())] = False,
) -> int:
    """Train every configuration with every seed."""
    console = _console()
    _refuse_words(cfgs)
    flags: dict[Key, Any] = {("env", "id"): env, ("env", "num_envs"): num_envs, ("backend",): backend}
    given = {key: value for key, value in flags.items() if value is not None}
    if show_config and not dry_run:
        raise UserError("command line: --show-config shows configurations and trains nothing; give --dry-run with it")
    experiment = read_experiment(cfgs, set_ or [], given, seeds, zip_)
    if show_config:
        return _show_configurations(experiment)
    _check_environments(experiment.trials)
    _check_wandb(experiment.trials)
    for note in experiment.notes:
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    from launcher import directory as folder

    directory = folder.choose_directory(experiment.trials, out, name, cfgs[0].stem)
    pairs = [(trial, 0) for trial in experiment.trials]
    return _launch(console, directory, pairs, workers, gpus, logical_gpus, address, dry_run, create=True)


@app.command
def resume(
    directory: Annotated[Path, Parameter(name="DIR", help="Directory of the launch.")],
    /,
    *,
    workers: Annotated[int | None, Parameter(help="Worker processes; default one per core or GPU.")] = None,
    gpus: Annotated[int | None, Parameter(help="GPUs to use; default all that Ray finds.")] = None,
    logical_gpus: Annotated[
        bool, Parameter(name="--logical-gpus", help="Only count GPUs: for tests and dry runs.", negative=())
    ] = False,
    address: Annotated[str | None, Parameter(help="Ray cluster: auto or HOST:PORT.")] = None,
    dry_run: Annotated[bool, Parameter(help="Show the plan and stop.", negative=())] = False,
    debug: Annotated[bool, Parameter(help="Show tracebacks.", negative=())] = False,
) -> int:
    """Continue a launch: every unfinished or failed trial goes on from its last checkpoint."""
    from launcher import directory as folder

    console = _console()
    directory = directory.absolute()
    rows, todo = folder.read_unfinished(directory)
    if not todo:
        console.print(
            f"{directory}: all {len(rows)} trials are finished or diverged; nothing to do",
            soft_wrap=True,
            highlight=False,
        )
        return 1 if any(row.state == "diverged" for row in rows) else 0
    _check_environments([trial for trial, _ in todo])
    _check_wandb([trial for trial, _ in todo])
    return _launch(console, directory, todo, workers, gpus, logical_gpus, address, dry_run, create=False)


@app.command
def status(
    directory: Annotated[Path, Parameter(name="DIR", help="Directory of the launch.")],
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON object, with all trials.", negative=())] = False,
    debug: Annotated[bool, Parameter(help="Show tracebacks.", negative=())] = False,
) -> int:
    """Show how a launch stands, while it runs or after: its trials, failures, statistics."""
    from launcher import status as view

    standing = view.read(directory.absolute())
    if as_json:
        print(json.dumps(view.describe(standing), allow_nan=False))
        return 0
    console = _console()
    view.show(console, standing)
    if standing.unfinished and not standing.running:
        _say_how_to_continue(console, standing.directory)
    return 0


@app.command
def logs(
    directory: Annotated[Path, Parameter(name="DIR", help="Directory of the launch.")],
    trial: Annotated[str | None, Parameter(name="TRIAL", help="Its name, or how no other's begins.")] = None,
    /,
    *,
    attempt: Annotated[int | None, Parameter(help="Number of an attempt; default the last one.")] = None,
    tail: Annotated[int, Parameter(help="Lines from the end.")] = 100,
    debug: Annotated[bool, Parameter(help="Show tracebacks.", negative=())] = False,
) -> int:
    """Print the log of a trial's last attempt; without TRIAL, list which trial is in which log."""
    from launcher import status as view

    standing = view.read(directory.absolute())
    if trial is None and attempt is None:
        view.list_logs(standing)
    else:
        view.show_log(standing, trial, attempt, tail)
    return 0


def _show_configurations(experiment: Experiment) -> int:
    """Print each configuration with the seed of its first trial, all keys under their canonical names; returns 0.

    Notes are comments, so that what is printed for one configuration is a configuration file.
    """
    for note in experiment.notes:
        print(f"# {note}")
    shown: set[str] = set()
    for trial in experiment.trials:
        if trial.name not in shown:
            if shown:
                print("---")
            print(f"# {trial.name}, from {experiment.files[trial.name]}")
            print(dump(trial.config.dump()), end="")
            shown.add(trial.name)
    return 0


def _launch(
    console: Console,
    directory: Path,
    trials: Sequence[tuple[Trial, int]],
    workers: int | None,
    gpus: int | None,
    logical: bool,
    address: str | None,
    dry_run: bool,
    create: bool,
) -> int:
    """Plan, make the directory, connect, train, show the result; returns the exit status."""
    from launcher import cluster, progress
    from launcher import directory as folder

    for flag, number, least in (("--workers", workers, 1), ("--gpus", gpus, 0)):
        if number is not None and number < least:
            raise UserError(f"command line: {flag} {number}: allowed: {least} or more")
    began = time.monotonic()
    placement = cluster.place(workers, gpus, logical, None) if address is None else None

    def show_plan(placement: Placement) -> None:
        progress.show_plan(console, directory, form_packs(trials, placement.workers), placement)
        if not placement.on_gpus and any(trial.config.agent.mixed_precision for trial, _ in trials):
            console.print("agent.mixed_precision: no effect on CPU workers, where float32 is faster", style="dim")

    if placement is not None and dry_run:
        show_plan(placement)
        return 0
    with contextlib.ExitStack() as stack:
        if create and not dry_run:
            # Before Ray starts, which takes seconds; taken back if it does not.
            made = folder.create(directory, [trial for trial, _ in trials])
            stack.callback(folder.remove, made)
        elif not dry_run:
            folder.check_free(directory)
        if placement is not None:
            show_plan(placement)
        with cluster.connected(address, placement):
            if placement is None:
                placement = cluster.place(workers, gpus, logical, address)
                show_plan(placement)
                if dry_run:
                    return 0
            packs = form_packs(trials, placement.workers)
            command = shlex.join(["launch", *sys.argv[1:]])
            folder.add_revision(directory, folder.revision(command, placement, packs))
            before = _trained_before(directory, trials)
            stack.pop_all()  # from here on there is something to continue
            try:
                stopped_by = _train(console, directory, packs, placement)
            except BaseException:
                _say_how_to_continue(console, directory)
                raise
    progress.show_result(console, directory, time.monotonic() - began, before)
    return _status(console, directory, stopped_by)


def _trained_before(directory: Path, trials: Sequence[tuple[Trial, int]]) -> int:
    """Env steps that need not be trained any more: of trials that are over, and up to the checkpoints of the others."""
    from launcher.ledger import Ledger

    begin = {trial.id: timestep for trial, timestep in trials}
    with Ledger(directory, writer=False) as ledger:
        return sum(
            begin[row.trial.trial] * row.trial.num_envs if row.trial.trial in begin else row.env_steps
            for row in ledger.progress()
        )


def _train(console: Console, directory: Path, packs: Sequence[Sequence[Trial]], placement: Placement) -> int:
    """Train all packs on the connected Ray, shown and exported; returns the signal that stopped it, or 0."""
    from launcher import cluster, progress
    from launcher.export import TensorBoardExport
    from launcher.export_wandb import WandbExport

    export = TensorBoardExport(directory)
    wanted = any(trial.config.agent.experiment.wandb for pack in packs for trial in pack)
    wandb = WandbExport(directory) if wanted else None
    with progress.View(console, directory) as view:

        def watch() -> None:
            view.refresh()
            export.poll()

        try:
            return cluster.run(directory, packs, placement, watch)
        finally:
            export.close()
            if wandb is not None:
                wandb.close()
                if wandb.where is not None:
                    console.print(f"wandb:       {wandb.where}", soft_wrap=True, highlight=False)


def _status(console: Console, directory: Path, stopped_by: int) -> int:
    """Exit status: 0 all finished, 1 any failed or diverged, 128 + signal when interrupted."""
    from launcher.ledger import Ledger

    with Ledger(directory, writer=False) as ledger:
        states = [row.state for row in ledger.trials()]
    if any(state not in ("finished", "diverged") for state in states):
        _say_how_to_continue(console, directory)
    if stopped_by:
        console.print(f"Interrupted by {signal.Signals(stopped_by).name}; what was trained is saved.")
        return 128 + stopped_by
    return 0 if all(state == "finished" for state in states) else 1


def _say_how_to_continue(console: Console, directory: Path) -> None:
    console.print(f"Continue:    launch resume {shlex.quote(str(directory))}", soft_wrap=True, highlight=False)


def _check_environments(trials: Sequence[Trial]) -> None:
    """Refuse what no worker could train: unknown environments and arguments, policies and networks that do not fit.

    Raises:
        UserError: naming the trial's configuration.
    """
    from runner.envs.envpool import EnvPoolTask
    from runner.parameters import Network

    seen = set()
    # All seeds of a configuration have its name.
    for trial in {trial.name: trial for trial in trials}.values():
        config = trial.config
        env = config.env
        key = static_key(config)
        if key in seen:
            continue
        seen.add(key)
        if env.id is None:
            raise UserError(f"{trial.name}: env.id is required: name it in the file (env: {{id: …}}) or with --env")
        if env.num_envs is None:
            raise UserError(f"{trial.name}: env.num_envs is required: name it in the file or with --num-envs")
        try:
            task = EnvPoolTask(env.id, env.num_envs, env.arguments)
            Network.of(config, task.layout, task.actions)
        except UserError as error:
            raise UserError(f"{trial.name}: {error}") from None


def _check_wandb(trials: Sequence[Trial]) -> None:
    """Refuse what would keep wandb, where it is asked for, from starting.

    Raises:
        UserError: naming the trial's configuration.
    """
    from runner import weights_and_biases

    seen: list[dict[str, Any]] = []
    for trial in trials:
        experiment = trial.config.agent.experiment
        if experiment.wandb and experiment.wandb_kwargs not in seen:
            seen.append(experiment.wandb_kwargs)
            try:
                weights_and_biases.check(experiment.wandb_kwargs, several=True)
            except UserError as error:
                raise UserError(f"{trial.name}: {error}") from None


def _refuse_words(cfgs: Sequence[Path]) -> None:
    """A hint where nothing is given, or where the first word looks like a verb or names a launch."""
    if not cfgs:
        raise UserError("command line: no configuration file; usage: launch CFG.yaml --seeds 8 (see launch --help)")
    first = cfgs[0]
    if (first / "plan.json").is_file():
        raise UserError(f"{first}: the directory of a launch. Did you mean `launch resume {first}`?")
    if first.exists() or first.suffix or "/" in str(first):
        return
    near = difflib.get_close_matches(str(first), [*VERBS, *LATER], 1, 0.6)
    if near and near[0] in VERBS:
        raise UserError(f"command line: '{first}' is no file. Did you mean `launch {near[0]}`?")
    if near:
        raise UserError(
            f"command line: '{first}' is no file, and the verb '{near[0]}' is not part of this version; allowed: "
            f"configuration files, or the verb {', '.join(VERBS)}"
        )


def _console() -> Console:
    console = Console()
    # A pipe has no width: lines are for programs then, and must not be cut at 80 columns.
    return console if console.is_terminal else Console(width=200)
