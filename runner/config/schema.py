"""The canonical configuration: skrl 2.x names, every default written out, unknown keys forbidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)

from runner.config import schedules
from runner.config.expressions import Call
from runner.config.network import Conv2d, Plan, plan
from runner.config.numbers import Float, Int
from runner.config.schedules import SCHEDULES, KLAdaptiveLR, Schedule
from runner.errors import UserError, did_you_mean


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


Interval = Int | Literal["auto"]
_Scaler = Annotated[Literal["RunningStandardScaler"], _folded("RunningStandardScaler")]
_POLICIES = ("GaussianMixin", "MultivariateGaussianMixin", "CategoricalMixin", "MultiCategoricalMixin")
_PROBABILITIES = ("sigmoid", "softmax", "softplus")
"""Output activations whose values may be read as probabilities."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True)


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
    """The policy network and its distribution.

    `action_mask: auto` lets the policy choose only among the actions that the environment says are possible, where it
    says so. `reduction` is how log-probabilities of several action dimensions become one; with `none` each dimension
    has a ratio of its own.
    """

    cls: Annotated[
        Literal["GaussianMixin", "MultivariateGaussianMixin", "CategoricalMixin", "MultiCategoricalMixin"],
        _folded(*_POLICIES),
    ] = Field("GaussianMixin", alias="class")
    output: str = "ACTIONS"
    clip_actions: bool = False
    clip_mean_actions: bool = False
    clip_log_std: bool = True
    min_log_std: Float = -20.0
    max_log_std: Float = 2.0
    initial_log_std: Float | Annotated[list[Float], Field(min_length=1)] = 0.0
    fixed_log_std: bool = False
    reduction: Literal["sum", "mean", "prod", "none"] = "sum"
    unnormalized_log_prob: bool = True
    action_mask: Literal["auto"] | bool = "auto"

    @property
    def expected_token(self) -> str:
        """Policies speak actions."""
        return "ACTIONS"

    @model_validator(mode="after")
    def _ordered(self) -> PolicyModel:
        if self.min_log_std >= self.max_log_std:
            raise ValueError(f"min_log_std {self.min_log_std} must be below max_log_std {self.max_log_std}")
        return self

    @model_validator(mode="after")
    def _probable(self) -> PolicyModel:
        output = self.plan.output
        positive = isinstance(output, Call) and output.function in _PROBABILITIES
        if not self.unnormalized_log_prob and "Categorical" in self.cls and not positive:
            raise ValueError(
                f"unnormalized_log_prob: False reads the output {self.output!r} as probabilities, which must not be "
                f"negative; allowed: an output such as softmax(ACTIONS) ({', '.join(_PROBABILITIES)}), or True"
            )
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

    With `separate: False` both heads read the containers of the role that is listed first, as in skrl; the other
    role's containers are checked, and replaced by them. `initialization: torch` is torch's default distribution;
    `orthogonal` has gains of √2 in hidden layers, 0.01 in the policy's head and 1 in the value's.
    """

    separate: bool = True
    initialization: Literal["torch", "orthogonal"] = "torch"
    policy: PolicyModel
    value: ValueModel

    @model_validator(mode="wrap")
    @classmethod
    def _shared(cls, data: Any, handler: Callable[[Any], Models]) -> Models:
        models = handler(data)
        if models.separate or not isinstance(data, Mapping):
            return models
        roles = [role for role in data if role in ("policy", "value")]
        network = {"network": getattr(models, roles[0]).network}
        update = {role: getattr(models, role).model_copy(update=network) for role in ("policy", "value")}
        for role, model in update.items():
            try:
                assert model.plan
            except UserError as error:
                raise ValueError(f"{role}.{error} (separate: False: both read the network of {roles[0]})") from None
        return models.model_copy(update=update)

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
    wandb: bool = False
    wandb_kwargs: Annotated[dict[str, Any], BeforeValidator(_null_to_empty)] = {}


_Rate = Annotated[Float, Field(gt=0)]
_A2C = {"learning_epochs": 1, "mini_batches": 1, "value_clip": 0.0, "value_loss_scale": 1.0}


def is_a2c(agent: Mapping[Any, Any]) -> bool:
    """Whether an agent section, as it was written, is of A2C."""
    return str(agent.get("class")).rsplit(".", 1)[-1].casefold() == "a2c"


def _schedule_name(value: Any) -> Any:
    """A schedule by its name, or its module and name, in any case."""
    found = schedules.canonical_name(value)
    if found is None:
        near = did_you_mean(str(value).rsplit(".", 1)[-1], SCHEDULES)
        raise ValueError(f"found {value!r}; allowed: {', '.join(SCHEDULES)}, or null.{near}")
    return found


def _schedule_arguments(value: Any, info: ValidationInfo) -> Schedule:
    return schedules.arguments(info.data.get("learning_rate_scheduler"), value)


class Agent(_Strict):
    """PPO, RPO or A2C. Names and meaning are skrl's; the README's table says where the arithmetic differs and why.

    `learning_rate` may be a list of two, for policy and value. `alpha` is RPO's.
    """

    cls: Annotated[Literal["PPO", "RPO", "A2C"], _folded("PPO", "RPO", "A2C")] = Field("PPO", alias="class")
    rollouts: Annotated[Int, Field(ge=1, le=1_000_000)] = 16
    learning_epochs: Annotated[Int, Field(ge=1, le=10_000)] = 8
    mini_batches: Annotated[Int, Field(ge=1)] = 2
    discount_factor: Annotated[Float, Field(ge=0, le=1)] = 0.99
    gae_lambda: Annotated[Float, Field(ge=0, le=1)] = 0.95
    learning_rate: _Rate | Annotated[list[_Rate], Field(min_length=2, max_length=2)] = 1e-3
    learning_rate_scheduler: Annotated[str, PlainValidator(_schedule_name)] | None = None
    learning_rate_scheduler_kwargs: Annotated[SerializeAsAny[Schedule], PlainValidator(_schedule_arguments)] = Field(
        default_factory=KLAdaptiveLR
    )
    observation_preprocessor: _Scaler | None = None
    observation_preprocessor_kwargs: Annotated[ScalerArguments, BeforeValidator(_null_to_empty)] = Field(
        default_factory=ScalerArguments
    )
    state_preprocessor: _Scaler | None = None
    state_preprocessor_kwargs: Annotated[ScalerArguments, BeforeValidator(_null_to_empty)] = Field(
        default_factory=ScalerArguments
    )
    value_preprocessor: _Scaler | None = None
    value_preprocessor_kwargs: Annotated[ScalerArguments, BeforeValidator(_null_to_empty)] = Field(
        default_factory=ScalerArguments
    )
    observation_statistics: Literal["first_epoch", "frozen"] = "first_epoch"
    random_timesteps: Annotated[Int, Field(ge=0)] = 0
    learning_starts: Annotated[Int, Field(ge=0)] = 0
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
    alpha: Annotated[Float, Field(ge=0)] = 0.5
    mixed_precision: bool = False
    experiment: Annotated[Experiment, BeforeValidator(_null_to_empty)] = Field(default_factory=Experiment)

    @model_validator(mode="before")
    @classmethod
    def _a2c(cls, data: Any) -> Any:
        """A2C has defaults of its own; in skrl it has no value clip, and nothing to scale the value loss with."""
        if isinstance(data, Mapping) and is_a2c(data):
            return {**_A2C, **data}
        return data

    @model_validator(mode="after")
    def _one_pass(self) -> Agent:
        if self.cls == "A2C" and self.learning_epochs != 1:
            raise ValueError(f"learning_epochs {self.learning_epochs}: A2C learns once from each rollout; allowed: 1")
        return self

    @property
    def starts(self) -> int:
        """Timesteps before which nothing is learned."""
        return max(self.random_timesteps, self.learning_starts)


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


class Evaluation(_Strict):
    """Each `interval` timesteps (0: never) a trial plays `episodes`, always the same; they decide its best agent."""

    interval: Annotated[Int, Field(ge=0)] = 0
    episodes: Annotated[Int, Field(ge=1, le=10**5)] = 10


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
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation.model_validate({}))

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        agent, trainer = self.agent, self.trainer
        if trainer.timesteps < agent.rollouts:
            raise ValueError(
                f"trainer.timesteps {trainer.timesteps} is less than one rollout (agent.rollouts {agent.rollouts}): "
                "nothing would be learned"
            )
        if trainer.timesteps - agent.starts < agent.rollouts:
            raise ValueError(
                f"trainer.timesteps {trainer.timesteps} leave no rollout to learn from after agent.random_timesteps "
                f"{agent.random_timesteps} and agent.learning_starts {agent.learning_starts}"
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
