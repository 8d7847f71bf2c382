"""Parameters and examples of several verbs of the `launch` command, and the console that they print on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from launcher.ledger.storage import FOLDER
from launcher.plan.resources import Whole
from launcher.search.settings import FLAGS
from runner.config.load import Key
from runner.config.overrides import parse_override
from runner.envs.named import imports
from runner.errors import UserError
from runner.files import expanded

if TYPE_CHECKING:
    from cyclopts import Token


def _path(_type: Any, tokens: Sequence[Token]) -> Path:
    """A typed path, for cyclopts."""
    return expanded(tokens[0].value)


Written = Annotated[Path, Parameter(converter=_path)]
"""A path in which `~` and variables are expanded."""
Directory = Annotated[
    Written | None, Parameter(name="DIR", help=f"Directory of the launch; default the latest in {FOLDER}.")
]
Launches = Annotated[Written | None, Parameter(help=f"Folder whose latest launch it is; default {FOLDER}.")]
Imports = Annotated[
    list[str] | None,
    Parameter(name="--import", help="A module that configurations may import."),
]
Debug = Annotated[bool, Parameter(help="Show tracebacks.")]


QUIET = Parameter(show=False)
"""So that `launch --help` fits a screen: documents and errors name these."""


@dataclass(frozen=True)
class Searching:
    """Flags of a search; None where the file, or the default, says."""

    search: Annotated[
        Literal["grid", "random", "tpe", "asha", "pbt"] | None,
        Parameter(help="asha, tpe, pbt, random, grid: see docs/search.md.", show_choices=False),
    ] = None
    trials: Annotated[Whole | None, QUIET] = None
    population: Annotated[Whole | None, QUIET] = None
    confirm: Annotated[Whole | None, QUIET] = None
    search_seed: Annotated[Whole | None, QUIET] = None

    def given(self) -> dict[Key, Any]:
        """Keys of the section that were typed, with their values."""
        values = (self.search, self.trials, self.population, self.confirm, self.search_seed)
        return {key: value for key, value in zip(FLAGS, values, strict=True) if value is not None}


_EXAMPLES = {
    "train": (
        "launch CartPole-v1 --seeds 8",
        "launch cfg.yaml --env my_package:PointEnv --num-envs 64 --seeds 8",
        "launch cfg.yaml --seeds 0-4 --set agent.learning_rate=1e-4,3e-4 --dry-run",
    ),
    "resume": (
        "launch resume",
        "launch resume runs/NAME --seeds 16 --set trainer.timesteps=20_000",
        "launch resume runs/NAME --retry-failed",
    ),
    "eval": (
        "launch eval --episodes 100 --best",
        "launch eval runs/NAME --every",
        "launch eval runs/NAME/trials/TRIAL/best_agent.safetensors --video 3",
    ),
    "export": (
        "launch export runs/NAME/trials/TRIAL/best_agent.safetensors",
        "launch export agent_1600.safetensors --to onnx --out policy.onnx",
    ),
    "report": ("launch report", "launch report runs/FIRST runs/SECOND --out comparison.html"),
    "status": ("launch status", "launch status runs/NAME", "launch status --out /scratch/runs --json"),
    "logs": ("launch logs", "launch logs cartpole_s3", "launch logs runs/NAME cartpole_s3 --tail 1000"),
    "list": ("launch list", "launch list /scratch/runs --json"),
    "presets": ("launch presets", "launch presets CartPole-v1 > my.yaml"),
    "keys": ("launch keys", "launch keys agent.experiment", "launch keys epsilon"),
    "check": ("launch check my_package:PointEnv", "launch check gymnasium:CartPole-v1 --json"),
    "envs": ("launch envs", "launch envs hopper", "launch envs minigrid --json", "launch envs Breakout-v5"),
    "follow": ("launch follow NAME --address http://HOST:8265",),
    "stop": ("launch stop NAME --address http://HOST:8265",),
    "pull": ("launch pull NAME --address http://HOST:8265 --out runs",),
}


def allow(modules: Sequence[str] | None, env: str | None = None, settings: Sequence[str] | None = None) -> None:
    """Let environments import what was typed: after --import, in --env module:Name, in --set env.id=module:Name."""
    typed = [(text, *parse_override(text, ranges=True)) for text in settings or ()]
    names = [(f"--env {env}", env)]
    names += [(f"--set {text}", str(value)) for text, key, values in typed if key == ("env", "id") for value in values]
    named = {module: flag for flag, name in names for module in imports.module_of(name)}
    for module, flag in {**{module: f"--import {module}" for module in modules or ()}, **named}.items():
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError(
                f"command line: {flag}: {module!r} is no module's name; allowed: a module that Python finds, in this "
                "folder too, such as --import my_package or --env my_package:PointEnv"
            )
    imports.allow([*(modules or ()), *named])
    for module in modules or ():
        imports.load(module, "command line")


def examples(verb: str) -> str:
    """The end of `launch VERB --help`."""
    return "\n\n  ".join(["Examples:", *_EXAMPLES[verb]]) + "\n"


def console() -> Console:
    """The console; a pipe has no width: lines are for programs then, and must not be cut at 80 columns."""
    shown = Console()
    return shown if shown.is_terminal else Console(width=200)
