"""The canonical configuration: skrl 2.x names, every default written out, unknown keys forbidden."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from runner.config.network import Conv2d, Plan, plan

_NUMBER = re.compile(r"^\s*[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?\s*$")


def _number(value: Any) -> Any:
    """Numbers that YAML 1.1 reads as text ('3e-4', '1e6') become the numbers they look like."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, str) and _NUMBER.match(value):
        value = float(value)
    return value


def _integer(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        return int(value)
    return value


def _folded(*names: str) -> BeforeValidator:
    """Class names are case-insensitive in skrl, and may come with their module in front."""
    table = {name.casefold(): name for name in names}

    def fold(value: Any) -> Any:
        if isinstance(value, str):
            return table.get(value.rsplit(".", 1)[-1].casefold(), value)
        return value

    return BeforeValidator(fold)


def _null_to_empty(value: Any) -> Any:
    return {} if value is None else value


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Int = Annotated[int, BeforeValidator(_integer)]
Interval = Annotated[int, BeforeValidator(_integer)] | Literal["auto"]
_Scaler = Annotated[Literal["RunningStandardScaler"], _folded("RunningStandardScaler")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, validate_default=True)


class EnvConfig(BaseModel):
    """The environment. Other keys are EnvPool's keyword arguments, checked against the task's specification."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str | None = None
    num_envs: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """EnvPool keyword arguments as given."""
        return dict(self.model_extra or {})


class Container(_Strict):
    """One entry of a skrl `network:` list."""

    name: str = "net"
    input: str = "OBSERVATIONS"
    layers: list[Any] = []
    activations: list[str | None] | str | None = None


class Model(_Strict):
    """What policy and value have in common."""

    network: list[Container] = []
    output: str

    @model_validator(mode="after")
    def _readable(self) -> Model:
        token = self.plan.token
        if token not in (self.expected_token, None):
            raise ValueError(f"output {self.output!r} must be built on {self.expected_token}")
        return self

    @property
    def expected_token(self) -> str:
        """The output token that this role needs."""
        raise NotImplementedError

    @property
    def plan(self) -> Plan:
        """Containers and output, read; raises UserError for what cannot be built."""
        return plan([item.model_dump() for item in self.network], self.output)


class PolicyModel(Model):
    """The policy network and its distribution."""

    cls: Annotated[Literal["GaussianMixin", "CategoricalMixin"], _folded("GaussianMixin", "CategoricalMixin")] = Field(
        "GaussianMixin", alias="class"
    )
    output: str = "ACTIONS"
    clip_actions: bool = False
    clip_log_std: bool = True
    min_log_std: Float = -20.0
    max_log_std: Float = 2.0
    initial_log_std: Float = 0.0
    fixed_log_std: bool = False
    reduction: Literal["sum"] = "sum"
    unnormalized_log_prob: Literal[True] = True

    @property
    def expected_token(self) -> str:
        """Policies speak actions."""
        return "ACTIONS"

    @model_validator(mode="after")
    def _ordered(self) -> PolicyModel:
        if self.min_log_std >= self.max_log_std:
            raise ValueError(f"min_log_std {self.min_log_std} must be below max_log_std {self.max_log_std}")
        return self


class ValueModel(Model):
    """The state-value network."""

    cls: Annotated[Literal["DeterministicMixin"], _folded("DeterministicMixin")] = Field(
        "DeterministicMixin", alias="class"
    )
    output: str = "ONE"
    clip_actions: bool = False

    @property
    def expected_token(self) -> str:
        """A value is one number."""
        return "ONE"


class Models(_Strict):
    """Policy and value.

    `separate: False` makes the value head read the policy's hidden layers. `initialization: torch` is torch's default
    distribution; `orthogonal` has gains of √2 in hidden layers, 0.01 in the policy's head and 1 in the value's.
    """

    separate: bool = True
    initialization: Literal["torch", "orthogonal"] = "torch"
    policy: PolicyModel
    value: ValueModel

    @property
    def convolves(self) -> bool:
        """Any layer is a convolution."""
        containers = [*self.policy.plan.containers, *self.value.plan.containers]
        return any(isinstance(layer, Conv2d) for container in containers for layer, _ in container.layers)


class Memory(_Strict):
    """skrl's memory section. The rollout buffer is always `agent.rollouts` long, used once, in full."""

    cls: Annotated[Literal["RandomMemory"], _folded("RandomMemory")] = Field("RandomMemory", alias="class")
    memory_size: Int = -1
    replacement: bool = False
    export: Literal[False] = False
    export_format: str = "pt"
    export_directory: str = ""


class SchedulerArguments(_Strict):
    """KLAdaptiveLR's numbers."""

    kl_threshold: Annotated[Float, Field(gt=0)] = 0.008
    min_lr: Annotated[Float, Field(gt=0)] = 1e-6
    max_lr: Annotated[Float, Field(gt=0)] = 1e-2
    kl_factor: Annotated[Float, Field(ge=1)] = 2.0
    lr_factor: Annotated[Float, Field(ge=1)] = 1.5

    @model_validator(mode="after")
    def _ordered(self) -> SchedulerArguments:
        if self.min_lr > self.max_lr:
            raise ValueError(f"min_lr {self.min_lr} must not be above max_lr {self.max_lr}")
        return self


class ScalerArguments(_Strict):
    """RunningStandardScaler's numbers; `size` and `device` are skrl's and follow from the environment here."""

    epsilon: Annotated[Float, Field(gt=0)] = 1e-8
    clip_threshold: Annotated[Float, Field(gt=0)] = 5.0
    size: Any = None
    device: Any = None


class Experiment(_Strict):
    """Where and how often a run is written; intervals are in timesteps."""

    directory: str = ""
    experiment_name: str = ""
    write_interval: Interval = "auto"
    checkpoint_interval: Interval = "auto"
    store_separately: Literal[False] = False
    wandb: Literal[False] = False
    wandb_kwargs: Annotated[dict[str, Any], BeforeValidator(_null_to_empty)] = {}


class Agent(_Strict):
    """PPO. Names and meaning are skrl's; the README's table says where the arithmetic differs and why."""

    cls: Annotated[Literal["PPO"], _folded("PPO")] = Field("PPO", alias="class")
    rollouts: Annotated[Int, Field(ge=1, le=1_000_000)] = 16
    learning_epochs: Annotated[Int, Field(ge=1, le=10_000)] = 8
    mini_batches: Annotated[Int, Field(ge=1)] = 2
    discount_factor: Annotated[Float, Field(ge=0, le=1)] = 0.99
    gae_lambda: Annotated[Float, Field(ge=0, le=1)] = 0.95
    learning_rate: Annotated[Float, Field(gt=0)] = 1e-3
    learning_rate_scheduler: (
        Annotated[Literal["KLAdaptiveLR", "linear", "cosine"], _folded("KLAdaptiveLR", "linear", "cosine")] | None
    ) = None
    learning_rate_scheduler_kwargs: Annotated[SchedulerArguments, BeforeValidator(_null_to_empty)] = Field(
        default_factory=SchedulerArguments
    )
    observation_preprocessor: _Scaler | None = None
    observation_preprocessor_kwargs: Annotated[ScalerArguments, BeforeValidator(_null_to_empty)] = Field(
        default_factory=ScalerArguments
    )
    value_preprocessor: _Scaler | None = None
    value_preprocessor_kwargs: Annotated[ScalerArguments, BeforeValidator(_null_to_empty)] = Field(
        default_factory=ScalerArguments
    )
    observation_statistics: Literal["first_epoch", "frozen"] = "first_epoch"
    random_timesteps: Annotated[Int, Field(ge=0, le=0)] = 0
    learning_starts: Annotated[Int, Field(ge=0, le=0)] = 0
    grad_norm_clip: Float = 0.5
    ratio_clip: Annotated[Float, Field(gt=0)] = 0.2
    value_clip: Float = 0.2
    value_loss: Literal["skrl", "max"] = "skrl"
    entropy_loss_scale: Float = 0.0
    value_loss_scale: Annotated[Float, Field(ge=0)] = 2.5
    kl_threshold: Annotated[Float, Field(ge=0)] = 0.0
    rewards_shaper_scale: Float = 1.0
    time_limit_bootstrap: bool = True
    advantage_normalization: Literal["rollout", "minibatch", "none"] = "rollout"
    mixed_precision: Literal[False] = False
    experiment: Annotated[Experiment, BeforeValidator(_null_to_empty)] = Field(default_factory=Experiment)


class Trainer(_Strict):
    """How long to train; `timesteps` counts steps of every environment (skrl's meaning)."""

    cls: Annotated[Literal["SequentialTrainer"], _folded("SequentialTrainer")] = Field(
        "SequentialTrainer", alias="class"
    )
    timesteps: Annotated[Int, Field(ge=1, le=10**12)] = 100_000
    headless: bool = True
    disable_progressbar: bool | None = None
    close_environment_at_exit: bool = True
    environment_info: str = "episode"
    stochastic_evaluation: bool = False
    render_interval: Int = 1


class Config(_Strict):
    """One resolved configuration."""

    seed: Annotated[Int, Field(ge=0, lt=2**63)] | None = 0
    backend: Literal["auto", "torch", "jax"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    env: Annotated[EnvConfig, BeforeValidator(_null_to_empty)] = Field(default_factory=EnvConfig)
    models: Models
    memory: Memory = Field(default_factory=lambda: Memory.model_validate({}))
    agent: Agent = Field(default_factory=lambda: Agent.model_validate({}))
    trainer: Trainer = Field(default_factory=lambda: Trainer.model_validate({}))

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        agent, trainer = self.agent, self.trainer
        if trainer.timesteps < agent.rollouts:
            raise ValueError(
                f"trainer.timesteps {trainer.timesteps} is less than one rollout (agent.rollouts {agent.rollouts}): "
                "nothing would be learned"
            )
        if self.env.num_envs is not None and agent.mini_batches > agent.rollouts * self.env.num_envs:
            raise ValueError(too_many_mini_batches(agent.mini_batches, agent.rollouts, self.env.num_envs))
        if self.memory.memory_size not in (-1, agent.rollouts) and self.memory.memory_size >= 0:
            raise ValueError(
                f"memory.memory_size {self.memory.memory_size} must be -1 or agent.rollouts ({agent.rollouts}): "
                "PPO learns from exactly one rollout"
            )
        return self

    @property
    def updates(self) -> int:
        """Whole rollouts in `trainer.timesteps`; steps of an unfinished rollout could not be learned from."""
        return self.trainer.timesteps // self.agent.rollouts

    def interval(self, name: Literal["write_interval", "checkpoint_interval"]) -> int:
        """An experiment interval in timesteps, `auto` resolved as skrl does (1/100 and 1/10); 0 is never."""
        value = getattr(self.agent.experiment, name)
        if value == "auto":
            parts = 100 if name == "write_interval" else 10
            return max(self.trainer.timesteps // parts, self.agent.rollouts)
        return max(value, 0)

    def dump(self) -> dict[str, Any]:
        """Plain data in canonical spelling, defaults included; `Config` reads it back unchanged."""
        return self.model_dump(by_alias=True)


def too_many_mini_batches(mini_batches: int, rollouts: int, num_envs: int) -> str:
    """The message for a minibatch that would be empty."""
    return (
        f"agent.mini_batches {mini_batches} is more than the {rollouts * num_envs} rows of a rollout "
        f"(agent.rollouts {rollouts} x num_envs {num_envs}); allowed: 1 to {rollouts * num_envs}"
    )
