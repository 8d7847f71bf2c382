"""The verbs of the `launch` command: parse, validate, plan, run, report."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from launcher.cli import clusters, environments, presets, reading
from launcher.cli.flags import QUIET, Debug, Directory, Imports, Launches, Searching, Written, allow, console, examples
from launcher.ledger.storage import is_launch
from launcher.plan.directory import launch_of
from launcher.plan.experiment import Experiment
from launcher.plan.resources import Resources, Whole, refuse_less
from launcher.plan.sweep import FLAGS, group_by_flag
from launcher.presets import index
from launcher.search import begin
from launcher.watch import launches
from runner.config.load import dump
from runner.errors import UserError

Given = Annotated[Resources, Parameter(name="*")]
NOTHING_GIVEN = Resources()
NOT_SEARCHING = Searching()


def _version() -> str:
    """This program, what its results depend on, and its code."""
    from launcher.plan.revision import software

    return "\n".join(f"{name} {version}" for name, version in software().items())


app = App(
    name="launch",
    help="Train PPO from skrl-style YAML files over many seeds and settings.",
    help_epilogue=examples("train"),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    version=_version,
    version_flags=["--version"],
    default_parameter=Parameter(show_default=False, negative=()),
)
for _verb, _function in (
    ("report", reading.report),
    ("status", reading.status),
    ("logs", reading.logs),
    ("list", reading.list_),
    ("keys", reading.keys),
    ("envs", environments.envs),
    ("presets", presets.presets),
    ("follow", clusters.follow),
    ("stop", clusters.stop),
    ("pull", clusters.pull),
    ("check", environments.check),
):
    app.command(_function, name=_verb, help_epilogue=examples(_verb))


@app.default
def train(
    *cfgs: Annotated[Written, Parameter(help="Configuration files, or tasks that have a preset.")],
    seeds: Annotated[str | None, Parameter(help="8 (base seed + 0…7), 0-7, or 3,5,7.")] = None,
    env: Annotated[str | None, Parameter(help="EnvPool's id, gymnasium:ID or module:Name.")] = None,
    num_envs: Annotated[Whole | None, Parameter(help="Environments of one trial.")] = None,
    import_: Imports = None,
    backend: Annotated[str | None, Parameter(help="torch or jax; default whichever is faster here.")] = None,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            help="a.b=value. Alternatives: 1,2; 0..1/5 in equal steps; 1e-5..1e-2/4 in equal ratios. --search: 0..1.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    zip_: Annotated[
        list[list[str]] | None,
        Parameter(
            name="--zip",
            help="a.b=1,2 c.d=3,4 advance together; files before it.",
            consume_multiple=True,
            converter=group_by_flag,
        ),
    ] = None,
    searching: Annotated[Searching, Parameter(name="*")] = NOT_SEARCHING,
    resources: Given = NOTHING_GIVEN,
    name: Annotated[str | None, Parameter(help="Name of the launch; default config and time.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder for launches; default runs.")] = None,
    dry_run: Annotated[bool, Parameter(help="Show the plan and stop; with --show-config, as YAML.")] = False,
    show_config: Annotated[bool, QUIET] = False,
    debug: Debug = False,
) -> int:
    """Train every configuration with every seed."""
    files = _files(cfgs)
    allow(import_, env, set_)
    given = {key: value for key, value in zip(FLAGS, (env, num_envs, backend), strict=True) if value is not None}
    if show_config and not dry_run:
        raise UserError("command line: --show-config shows configurations and trains nothing; give --dry-run with it")
    experiment, begun = begin.read(files, set_ or [], given, seeds, zip_, searching.given())
    if show_config:
        return _show_configurations(experiment)
    return _begin(experiment, begun, name, files[0].stem, out, resources, dry_run)


def _begin(
    experiment: Experiment,
    begun: begin.Begun | None,
    name: str | None,
    stem: str,
    out: Path | None,
    wanted: Resources,
    dry_run: bool,
) -> int:
    """Create a launch and let it go on, here or on a cluster; or only show it."""
    from launcher.cluster import jobs
    from launcher.plan import directory as folder
    from launcher.plan.resume import Request
    from launcher.run import session
    from launcher.watch.tables import say

    terminal, trials, request = console(), experiment.trials, Request(_typed(), wanted)
    for note in experiment.notes:
        say(terminal, note, "dim")
    events = begun.events if begun is not None else []
    for line in begun.described(trials) if begun is not None else []:
        say(terminal, line)
    remote = jobs.dashboard_of(wanted.address) is not None
    if remote and dry_run:
        raise UserError("command line: --dry-run: shows the plan of this machine, or of a cluster that it joins")
    # What a cluster would refuse, too, before the name is spent.
    session.refuse(trials, wanted)
    if remote:
        cluster = jobs.Jobs(str(wanted.address))
        with tempfile.TemporaryDirectory() as packed:
            made = folder.create(Path(packed) / folder.choose_name(trials, name, stem)[0], trials, True, events)
            folder.fold(made)
            where = cluster.begin(made, folder.choose_folder(trials, out), request)
        return clusters.watch(cluster, made.name, where)
    directory, named = folder.choose_directory(trials, out, name, stem)
    if dry_run:
        return session.Session(terminal, directory, [(trial, 0) for trial in trials], wanted, begun is not None).show()
    with folder.beginning(directory, lambda chosen: folder.create(chosen, trials, named, events)) as made:
        return session.proceed(terminal, made, request)


@app.command(help_epilogue=examples("resume"))
def resume(
    directory: Directory = None,
    /,
    *,
    out: Launches = None,
    seeds: Annotated[
        str | None, Parameter(help="Every configuration with these: 16 (its first seed + 0…15), 0-15, or 3,5,7.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", help="trainer.timesteps=N: train on, to a greater length."),
    ] = None,
    retry_failed: Annotated[bool, Parameter(help="Try trials that failed again.")] = False,
    import_: Imports = None,
    resources: Given = NOTHING_GIVEN,
    dry_run: Annotated[bool, Parameter(help="Show the plan and stop.")] = False,
    debug: Debug = False,
) -> int:
    """Continue a launch: train what is missing, or more."""
    from launcher.cluster import jobs
    from launcher.plan.resume import Request
    from launcher.run import session

    allow(import_)
    request = Request(_typed(), resources, seeds, tuple(set_ or ()), retry_failed, dry_run)
    if jobs.dashboard_of(resources.address) is None:
        return session.resume(console(), launches.chosen(directory, out), request)
    if directory is None:
        raise UserError("command line: which launch of the cluster? Give its name: launch resume NAME --address …")
    cluster = jobs.Jobs(str(resources.address))
    return clusters.watch(cluster, directory.name, cluster.resume(directory.name, request))


@app.command(show=False)
def on_head(directory: Written, request: str, /, *, begin: bool = False) -> int:
    """Let a launch go on on the cluster whose head this is; `begin` with one that has travelled to this folder."""
    from launcher.plan import directory as folder
    from launcher.plan.resume import Request
    from launcher.run import session

    asked = Request.of_json(request, address="auto")
    if not begin:
        return session.resume(console(), directory, asked)
    with folder.beginning(directory, partial(folder.adopt, Path.cwd())) as made:
        return session.proceed(console(), made, asked)


@app.command(name="eval", help_epilogue=examples("eval"))
def evaluate(
    *paths: Annotated[
        Written, Parameter(name="DIR|CHECKPOINT", help="Launch directories, or checkpoints; default the latest launch.")
    ],
    episodes: Annotated[Whole, Parameter(help="Episodes of each checkpoint; default 100.")] = 100,
    stochastic: Annotated[bool, Parameter(help="Sample actions; default the most probable ones.")] = False,
    env: Annotated[str | None, Parameter(help="Environment id; default the trial's own.")] = None,
    import_: Imports = None,
    num_envs: Annotated[Whole | None, Parameter(help="Environments of a checkpoint that are stepped together.")] = None,
    seed: Annotated[Whole, Parameter(help="Seed of the episodes, the same for all checkpoints; default 0.")] = 0,
    every: Annotated[bool, Parameter(help="Every checkpoint of a trial.")] = False,
    last: Annotated[bool, Parameter(help="The last one; the default.")] = False,
    best: Annotated[bool, Parameter(help="The best one, by the score while it trained.")] = False,
    video: Annotated[Whole, Parameter(help="Film so many episodes of the best, median and worst seed.")] = 0,
    resources: Given = NOTHING_GIVEN,
    debug: Debug = False,
) -> int:
    """Let checkpoints play the same episodes; keep what they score."""
    from launcher.evaluate import session as evaluation
    from launcher.evaluate.batches import Terms, Which

    allow(import_, env)
    if every + last + best > 1:
        raise UserError("command line: give one of --every, --last and --best")
    refuse_less(("--episodes", episodes, 1), ("--num-envs", num_envs, 1), ("--seed", seed, 0))
    which: Which = "every" if every else "best" if best else "last"
    terms = Terms(episodes, seed, not stochastic, env, num_envs)
    return evaluation.conduct(console(), paths or [launches.latest()], which, terms, resources, video)


@app.command(help_epilogue=examples("export"))
def export(
    checkpoint: Annotated[
        Written, Parameter(name="CHECKPOINT|DIR", help="A checkpoint of this program's, or a search.")
    ],
    /,
    *,
    env: Annotated[str | None, Parameter(help="Environment id, of an agent whose environment had no name.")] = None,
    to: Annotated[
        Literal["torch", "onnx", "optuna"], Parameter(help="torch (default) or onnx; of a search optuna.")
    ] = "torch",
    out: Annotated[Written | None, Parameter(help="File to write; default next to the checkpoint.")] = None,
    import_: Imports = None,
    debug: Debug = False,
) -> int:
    """Write a policy for plain torch or ONNX, or a search for Optuna."""
    from launcher.plan import directory as folder
    from launcher.search import tpe
    from runner.export import export as write

    if to == "optuna":
        print(tpe.export(checkpoint, out))
        return 0
    allow(import_, env)
    if (launch := folder.launch_of(checkpoint)) is not None:
        folder.allow_recorded(launch)
    for path in write(checkpoint, to, out, env):
        print(path)
    return 0


def _typed() -> str:
    """The command line, as a person could type it again."""
    return shlex.join(["launch", *sys.argv[1:]])


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


def _files(cfgs: Sequence[Path]) -> list[Path]:
    """The files that were typed, and those of the presets that were named."""
    _refuse_words(cfgs)
    return [_file(path) for path in cfgs]


def _file(path: Path) -> Path:
    """The path of a file, existing or not, or that of the preset that it names."""
    if path.is_file():
        return path
    preset = index.named(str(path))
    if preset is None and not path.exists() and not path.suffix:
        preset = index.required(str(path))
    if preset is None:
        return path
    allow(None, preset.task)  # which may be one of a module, such as mpe2.simple_spread_v3:parallel_env
    return preset.path


def _refuse_words(cfgs: Sequence[Path]) -> None:
    """A hint where nothing is given, or where a word is something else than a configuration's file."""
    if not cfgs:
        raise UserError(
            "command line: no configuration file; usage: launch CFG.yaml --seeds 8, or launch CartPole-v1 --seeds 8 "
            "(`launch presets` lists such tasks; see launch --help)"
        )
    for word in map(str, cfgs):
        if re.fullmatch(r"[\w.]+=.*", word, re.DOTALL) and not Path(word).exists():
            raise UserError(
                f"command line: {word!r} is no file; each setting has its own flag: --set {shlex.quote(word)}"
            )
    for path in cfgs:
        if is_launch(path):
            raise UserError(f"{path}: the directory of a launch. Did you mean `launch resume {path}`?")
        if path.suffix == ".safetensors" and path.is_file():
            more = f", and `launch resume {launch}` trains on" if (launch := launch_of(path)) is not None else ""
            raise UserError(
                f"{path}: a checkpoint, no configuration. `launch eval {path}` lets it play, `launch export {path}` "
                f"makes a policy of it that needs no Sunflower{more}"
            )
        if path.suffix in (".pt", ".pickle") and path.is_file():
            raise UserError(f"{path}: a checkpoint such as skrl's, no configuration. A Runner's `agent.load` reads it")
    first = cfgs[0]
    if first.exists() or first.suffix or "/" in str(first) or index.named(str(first)) is not None:
        return
    near = difflib.get_close_matches(str(first), list(app), 1, 0.6)
    if near:
        raise UserError(f"command line: '{first}' is no file. Did you mean `launch {near[0]}`?")
