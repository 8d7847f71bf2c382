"""The `launch` command: parse, validate, plan, run, report."""

from __future__ import annotations

import difflib
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from launcher.plan import Placement, Trial, form_packs, read_experiment
from runner.config.load import Key
from runner.errors import UserError

EXAMPLES = """\
Examples:

  launch configs/classic/cartpole.yaml --seeds 8

  launch configs/skrl/ppo.yaml --env Pendulum-v1 --num-envs 64 --seeds 8

  launch cfg.yaml --seeds 0-4 --set agent.learning_rate=1e-4,3e-4 --dry-run
"""
VERBS = {"resume": "continue a launch that was interrupted or failed"}
LATER = ("eval", "status", "logs", "report", "follow", "stop", "pull")
"""Verbs of later versions: named in hints so that nobody takes them for a file."""

app = App(
    name="launch",
    help="Train PPO from skrl-style YAML files over many seeds and settings.",
    help_epilogue=EXAMPLES,
    help_format="plaintext",
    version_flags=[],
)


@app.default
def train(
    *cfgs: Annotated[Path, Parameter(help="Configuration files; each is a configuration.", negative=())],
    seeds: Annotated[str | None, Parameter(help="8 (base seed + 0…7), 0-7, or 3,5,7.")] = None,
    env: Annotated[str | None, Parameter(help="Environment id of EnvPool.")] = None,
    num_envs: Annotated[int | None, Parameter(help="Environments of one trial.")] = None,
    backend: Annotated[str | None, Parameter(help="torch.")] = None,
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", help="a.b=value; a,b makes alternatives.", negative=(), allow_leading_hyphen=True),
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
    debug: Annotated[bool, Parameter(help="Show tracebacks.", negative=())] = False,
) -> int:
    """Train every configuration with every seed."""
    console = _console()
    _refuse_words(cfgs)
    for flag, number, least in (("--workers", workers, 1), ("--gpus", gpus, 0)):
        if number is not None and number < least:
            raise UserError(f"command line: {flag} {number}: allowed: {least} or more")
    flags: dict[Key, Any] = {("env", "id"): env, ("env", "num_envs"): num_envs, ("backend",): backend}
    given = {key: value for key, value in flags.items() if value is not None}
    experiment = read_experiment(cfgs, set_ or [], given, seeds)
    _check_environments(experiment.trials)
    for note in experiment.notes:
        console.print(note, style="dim", highlight=False, soft_wrap=True)
    from launcher import directory as folder

    directory = folder.choose_directory(experiment.trials, out, name)
    pairs = [(trial, 0) for trial in experiment.trials]
    return _launch(console, directory, pairs, workers, gpus, logical_gpus, address, dry_run, create=True)


@app.command
def resume(
    directory: Path,
    *,
    workers: int | None = None,
    gpus: int | None = None,
    logical_gpus: Annotated[bool, Parameter(name="--logical-gpus", negative=())] = False,
    address: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    debug: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Continue a launch: every unfinished or failed trial goes on from its last checkpoint."""
    from launcher import directory as folder
    from launcher.ledger import Ledger

    console = _console()
    directory = directory.absolute()
    trials = {trial.id: trial for trial in folder.read_trials(directory)}
    with Ledger(directory, writer=False) as ledger:
        states = {row.trial: row.state for row in ledger.trials()}
        todo = []
        for name, state in states.items():
            if state in ("finished", "diverged"):
                continue
            agents = [c.timestep for c in ledger.checkpoints(name) if c.kind == "agent"]
            todo.append((trials[name], max(agents, default=0)))
    if not todo:
        console.print(f"{directory}: all {len(states)} trials are finished or diverged; nothing to do")
        return 1 if "diverged" in states.values() else 0
    _check_environments([trial for trial, _ in todo])
    return _launch(console, directory, todo, workers, gpus, logical_gpus, address, dry_run, create=False)


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
    """Plan, connect, train, show the result; returns the exit status."""
    from launcher import cluster, progress
    from launcher import directory as folder
    from launcher.export import TensorBoardExport

    began = time.monotonic()
    placement: Placement | None = None
    if address is None:
        placement = cluster.place(workers, gpus, logical, None)
    if dry_run and placement is not None:
        progress.show_plan(console, directory, form_packs(trials, placement.workers), placement)
        return 0
    with cluster.connected(address, placement):
        if placement is None:
            placement = cluster.place(workers, gpus, logical, address)
        packs = form_packs(trials, placement.workers)
        progress.show_plan(console, directory, packs, placement)
        if dry_run:
            return 0
        command = shlex.join(["launch", *sys.argv[1:]])
        change = folder.revision(command, placement, packs)
        if create:
            folder.create(directory, [trial for trial, _ in trials], change)
        else:
            folder.write_plan(directory, change)
        export = TensorBoardExport(directory)
        with progress.View(console, directory) as view:

            def watch() -> None:
                view.refresh()
                export.poll()

            stopped_by = cluster.run(directory, packs, placement, watch)
        export.poll()
        export.close()
    progress.show_result(console, directory, time.monotonic() - began)
    return _status(console, directory, stopped_by)


def _status(console: Console, directory: Path, stopped_by: int) -> int:
    """Exit status: 0 all finished, 1 any failed or diverged, 128 + signal when interrupted."""
    from launcher.ledger import Ledger

    with Ledger(directory, writer=False) as ledger:
        states = [row.state for row in ledger.trials()]
    unfinished = [state for state in states if state not in ("finished", "diverged")]
    if unfinished:
        console.print(f"Continue:    launch resume {shlex.quote(str(directory))}", soft_wrap=True, highlight=False)
    if stopped_by:
        console.print(f"Interrupted by {signal.Signals(stopped_by).name}; what was trained is saved.")
        return 128 + stopped_by
    return 0 if all(state == "finished" for state in states) else 1


def _check_environments(trials: Sequence[Trial]) -> None:
    """Refuse what no worker could train: unknown environments and arguments, policies that do not fit.

    Raises:
        UserError: naming the trial's configuration.
    """
    from runner.envs.envpool import EnvPoolTask

    seen = set()
    for trial in trials:
        config = trial.config
        env, policy = config.env, config.models.policy
        key = (env.model_dump_json(), policy.cls, policy.clip_actions)
        if key in seen:
            continue
        seen.add(key)
        if env.id is None:
            raise UserError(f"{trial.name}: env.id is required: name it in the file (env: {{id: …}}) or with --env")
        if env.num_envs is None:
            raise UserError(f"{trial.name}: env.num_envs is required: name it in the file or with --num-envs")
        try:
            EnvPoolTask(env.id, env.num_envs, env.arguments).actions.check_policy(policy.cls, policy.clip_actions)
        except UserError as error:
            raise UserError(f"{trial.name}: {error}") from None


def _refuse_words(cfgs: Sequence[Path]) -> None:
    """A hint where the first word is no file but looks like a verb, or where nothing is given."""
    if not cfgs:
        raise UserError("command line: no configuration file; usage: launch CFG.yaml --seeds 8 (see launch --help)")
    word = str(cfgs[0])
    if cfgs[0].exists() or cfgs[0].suffix or "/" in word:
        return
    near = difflib.get_close_matches(word, [*VERBS, *LATER], 1, 0.6)
    if near and near[0] in VERBS:
        raise UserError(f"command line: {word!r} is no file. Did you mean `launch {near[0]}`?")
    if near:
        raise UserError(
            f"command line: {word!r} is no file, and the verb {near[0]!r} is not part of this version; allowed: "
            f"configuration files, or the verb {', '.join(VERBS)}"
        )
    raise UserError(f"{word}: no such configuration file")


def _console() -> Console:
    console = Console()
    # A pipe has no width: lines are for programs then, and must not be cut at 80 columns.
    return console if console.is_terminal else Console(width=200)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0, 1, 2, 130, 143)."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        return int(result or 0)
    except CycloptsError as error:
        errors.print(f"command line: {error}")
        errors.print("See launch --help.")
        return 2
    except UserError as error:
        if "--debug" in tokens:
            traceback.print_exc()
        errors.print(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
