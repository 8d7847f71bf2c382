"""The sections of a configuration beside models and agent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from runner.config.marks import Mark
from runner.config.numbers import Float, Int
from runner.config.section import Section, class_name, null_to_empty
from runner.errors import shown

Interval = Int | Literal["auto"]


def wrapper_of(entry: Any) -> tuple[str, tuple[str, str], dict[str, Any]]:
    """An entry of `env.wrappers`: its name, the module and the name in it, and its arguments.

    Raises:
        ValueError: it is no name, and no name with arguments.
    """
    name, arguments = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, None)
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f"found {shown(entry, 60)}; allowed: module:Name or {{module:Name: {{argument: value}}}}")
    module, _, wanted = name.partition(":") if ":" in name else name.rpartition(".")
    if not module or not wanted:
        raise ValueError(f"found {name!r}; allowed: a module and a name in it, such as gymnasium.wrappers.{name}")
    return name, (module, wanted), arguments


class EnvConfig(BaseModel):
    """The environment. Other keys are its keyword arguments, checked against EnvPool's specification or a signature."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)

    id: str | None = None
    """EnvPool's task, such as CartPole-v1; else gymnasium:ID, or module:Name of a class or function."""
    num_envs: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None
    """Environments of one trial (N), stepped together."""
    half_pools: Annotated[Literal["auto"] | bool, Mark.OUTPUT, Mark.LATER] = "auto"
    """Step EnvPool's environments in two halves, each in its own threads; auto: where a GPU acts."""

    @model_validator(mode="after")
    def _wrapped(self) -> EnvConfig:
        given = self.wrappers
        if given is not None and not isinstance(given, list):
            raise ValueError(f"wrappers: found {shown(given, 60)}; allowed: a list such as [my_package:Clip]")
        for place, entry in enumerate(given or ()):
            try:
                wrapper_of(entry)
            except ValueError as error:
                raise ValueError(f"wrappers.{place}: {error}") from None
        return self

    @property
    def of_python(self) -> bool:
        """A class, function or id of Python makes it, not EnvPool."""
        return ":" in str(self.id)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments as given."""
        return {name: value for name, value in (self.model_extra or {}).items() if name != "wrappers"}

    @property
    def wrappers(self) -> Any:
        """The wrappers around an environment of Python, as given: no field, since most trials' ids know none."""
        return (self.model_extra or {}).get("wrappers")


class Memory(Section):
    """skrl's memory section. The rollout buffer is always `agent.rollouts` long, used once, in full."""

    cls: Annotated[Literal["RandomMemory"], class_name("RandomMemory")] = Field("RandomMemory", alias="class")
    """skrl's name for the rollout buffer."""
    memory_size: Int = -1
    """Timesteps that it holds: agent.rollouts, or -1 for the same."""
    replacement: bool = False
    """Accepted as in skrl, without effect: every row is used once an epoch."""
    export: Literal[False] = False
    """Rollouts are not exported."""
    export_format: str = "pt"
    """Accepted as in skrl, without effect."""
    export_directory: str = ""
    """Accepted as in skrl, without effect."""


class ScalerArguments(Section):
    """RunningStandardScaler's numbers; `size` and `device` are skrl's and follow from the environment here."""

    epsilon: Annotated[Float, Field(gt=0)] = 1e-8
    """Added to the standard deviation before dividing by it."""
    clip_threshold: Annotated[Float, Field(gt=0)] = 5.0
    """Standard deviations from the mean at which normalised numbers are clipped."""
    size: Any = None
    """Accepted as in skrl, without effect: it follows from the environment."""
    device: Any = None
    """Accepted as in skrl, without effect."""


class Experiment(Section):
    """Folder of a run, and how often it is written; intervals are in timesteps."""

    directory: Annotated[str, Mark.NAME] = ""
    """Folder for outputs; empty: runs."""
    experiment_name: Annotated[str, Mark.NAME] = ""
    """Name of the output's own folder; empty: made of configuration or agent, and time."""
    write_interval: Annotated[Interval, Mark.OUTPUT] = "auto"
    """Timesteps between metric records; auto: 1/100 of the training, 0: never."""
    checkpoint_interval: Annotated[Interval, Mark.OUTPUT] = "auto"
    """Timesteps between checkpoints; auto: 1/10 of the training, 0: only at the end."""
    store_separately: Literal[False] = False
    """A checkpoint is one file."""
    wandb: Annotated[bool, Mark.OUTPUT] = False
    """Weights & Biases: curves go there as well."""
    wandb_kwargs: Annotated[dict[str, Any], BeforeValidator(null_to_empty), Mark.OUTPUT] = Field(default_factory=dict)
    """Arguments of wandb.init."""


class Trainer(Section):
    """Length of the training; `timesteps` counts steps of every environment (skrl's meaning)."""

    cls: Annotated[Literal["SequentialTrainer"], class_name("SequentialTrainer")] = Field(
        "SequentialTrainer", alias="class"
    )
    """skrl's name for one environment after another in one process."""
    timesteps: Annotated[Int, Field(ge=1, le=10**12), Mark.LENGTH] = 100_000
    """Length of the training in timesteps: steps of every environment, not of all together."""
    devices: Annotated[Annotated[Int, Field(ge=1, le=1024)], Mark.PLACE, Mark.LATER] = 1
    """Processes that train one trial together, each on a GPU or core of its own, with a part of its environments."""
    headless: bool = True
    """Accepted as in skrl, without effect: nothing is rendered."""
    disable_progressbar: bool | None = None
    """No progress of `run("train")` is shown; a launch has a display of its own."""
    close_environment_at_exit: bool = True
    """Accepted as in skrl, without effect."""
    environment_info: str = "episode"
    """Accepted as in skrl, without effect."""
    stochastic_evaluation: bool = False
    """Actions of evaluations are samples; False: the most probable ones."""
    render_interval: Int = 1
    """Accepted as in skrl, without effect."""


class Evaluation(Section):
    """Episodes that a trial plays while it trains; they decide its best agent."""

    interval: Annotated[Int, Field(ge=0)] = 0
    """Timesteps between evaluations; 0: none."""
    episodes: Annotated[Int, Field(ge=1, le=10**5)] = 10
    """Episodes of each evaluation, always the same ones."""
