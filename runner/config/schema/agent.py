"""The agent section of a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from runner.config import schedules
from runner.config.marks import Mark, marked
from runner.config.numbers import Float, Int
from runner.config.schedules import SCHEDULES, KLAdaptiveLR, Schedule
from runner.config.schema.sections import Experiment, ScalerArguments
from runner.config.section import Section, class_name, null_to_empty
from runner.errors import did_you_mean

_Scaler = Annotated[Literal["RunningStandardScaler"], class_name("RunningStandardScaler")]
_Algorithm = Literal["PPO", "RPO", "A2C", "IPPO", "MAPPO"]
_Rate = Annotated[Float, Field(gt=0)]
_ScalerArguments = Annotated[ScalerArguments, BeforeValidator(null_to_empty), Mark.ACTING]
_KWARGS = "learning_rate_scheduler_kwargs"
_A2C = {"learning_epochs": 1, "mini_batches": 1, "value_clip": 0.0, "value_loss_scale": 1.0}


_SCHEDULES = Field(json_schema_extra={"enum": [*SCHEDULES]})


def is_class(agent: Any, name: str) -> bool:
    """The agent section, as it was written, is of this class."""
    return isinstance(agent, Mapping) and str(agent.get("class")).rsplit(".", 1)[-1].upper() == name


def is_a2c(agent: Mapping[Any, Any]) -> bool:
    """The agent section, as it was written, is A2C's."""
    return is_class(agent, "A2C")


def _check_known(where: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse names of what does not change while it trains."""
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: {name} does not change.{did_you_mean(name, known)} Allowed: {', '.join(known)}")


def _below(key: tuple[str | int, ...], error: ValidationError) -> ValidationError:
    """The same errors, of keys below this one."""
    details: list[InitErrorDetails] = []
    for one in error.errors():
        kind = PydanticCustomError(one["type"], "{text}", {**one.get("ctx", {}), "text": one["msg"]})
        details.append({"type": kind, "loc": (*key, *one["loc"]), "input": one["input"]})
    return ValidationError.from_exception_data(error.title, details)


def _schedule_name(value: Any) -> Any:
    """A schedule by its name, or its module and name, in any case."""
    found = schedules.canonical_name(value)
    if found is None:
        near = did_you_mean(str(value).rsplit(".", 1)[-1], SCHEDULES)
        raise ValueError(f"found {value!r}; allowed: {', '.join(SCHEDULES)}, or null.{near}")
    return found


def _schedule_arguments(value: Any, info: ValidationInfo) -> Schedule:
    return schedules.arguments(info.data.get("learning_rate_scheduler"), value)


class Change(BaseModel):
    """A point of the training from which on numbers of the agent section are others."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)

    at: Annotated[Int, Field(ge=1)]
    """Timestep from which on the other keys here, numbers of the agent section, have these values."""


class Agent(Section):
    """PPO, RPO, A2C, IPPO or MAPPO. Names and meaning are skrl's; docs/skrl.md says where the arithmetic differs."""

    cls: Annotated[_Algorithm, class_name(*get_args(_Algorithm)), Mark.ACTING] = Field("PPO", alias="class")
    """Algorithm: PPO, RPO (means perturbed in updates), A2C; of several agents IPPO or MAPPO (values of STATES)."""
    share_parameters: Annotated[bool | list[list[str]], Mark.ACTING, Mark.LATER] = False
    """Networks of several agents: one for each, True: one for all, or groups of names that have one together."""
    team_return: Annotated[Literal["sum", "mean"], Mark.OUTPUT, Mark.LATER] = "sum"
    """Return of a team, which is its score: the sum of its agents' returns, or their mean."""
    of_agents: Annotated[dict[str, dict[str, Any]], Mark.CHANGES, Mark.LATER] = Field(default_factory=dict)
    """Numbers of which each agent has its own, such as {learning_rate: {wolf: 1.e-3, sheep: 1.e-4}}."""
    rollouts: Annotated[Int, Field(ge=1, le=1_000_000)] = 16
    """Timesteps collected between updates, of every environment (T)."""
    sequence_length: Annotated[Annotated[Int, Field(ge=1)] | None, Mark.LATER] = None
    """Timesteps through which recurrent layers learn, a divisor of rollouts; null: all of a rollout."""
    learning_epochs: Annotated[Int, Field(ge=1, le=10_000)] = 8
    """Passes over a rollout in an update."""
    mini_batches: Annotated[Int, Field(ge=1)] = 2
    """Parts that a rollout is cut into in every epoch: a count, not a size."""
    discount_factor: Annotated[Float, Field(ge=0, le=1), Mark.HYPER] = 0.99
    """Discount: the worth of a reward one timestep later."""
    gae_lambda: Annotated[Float, Field(ge=0, le=1), Mark.HYPER] = 0.95
    """λ of generalised advantage estimation: 0 trusts the values alone, 1 the returns alone."""
    learning_rate: Annotated[_Rate | Annotated[list[_Rate], Field(min_length=2, max_length=2)], Mark.HYPER] = 1e-3
    """Adam's step size, or a list of two: the policy's and the value's."""
    adam_epsilon: Annotated[Float, Field(gt=0), Mark.HYPER, Mark.LATER] = 1e-8
    """Added to the root of Adam's second moment, which gradients are divided by; 1e-5 in Stable-Baselines3."""
    learning_rate_scheduler: Annotated[str, PlainValidator(_schedule_name), _SCHEDULES] | None = None
    """Schedule of the learning rate: KLAdaptiveLR, linear, cosine, or one of torch's or optax's; null: none."""
    learning_rate_scheduler_kwargs: Annotated[SerializeAsAny[Schedule], PlainValidator(_schedule_arguments)] = Field(
        default_factory=KLAdaptiveLR
    )
    """Arguments of the schedule, counted in learning epochs."""
    observation_preprocessor: Annotated[_Scaler | None, Mark.ACTING] = None
    """RunningStandardScaler normalises observations to mean 0 and deviation 1; null: nothing does."""
    observation_preprocessor_kwargs: _ScalerArguments = Field(default_factory=ScalerArguments)
    """Arguments of the observation_preprocessor."""
    state_preprocessor: Annotated[_Scaler | None, Mark.ACTING] = None
    """The same for the privileged states that a value network reads."""
    state_preprocessor_kwargs: _ScalerArguments = Field(default_factory=ScalerArguments)
    """Arguments of the state_preprocessor."""
    value_preprocessor: Annotated[_Scaler | None, Mark.ACTING] = None
    """RunningStandardScaler lets the value network learn normalised returns; null: returns as they are."""
    value_preprocessor_kwargs: _ScalerArguments = Field(default_factory=ScalerArguments)
    """Arguments of the value_preprocessor."""
    observation_statistics: Literal["first_epoch", "frozen"] = "first_epoch"
    """Time when observations enter the statistics: the first epoch, as in skrl; frozen: after the update."""
    random_timesteps: Annotated[Int, Field(ge=0)] = 0
    """Timesteps at the beginning that take random actions."""
    learning_starts: Annotated[Int, Field(ge=0)] = 0
    """Timesteps before which nothing is learned."""
    grad_norm_clip: Annotated[Float, Mark.HYPER] = 0.5
    """Greatest norm of the gradient of policy and value together; 0: no clip."""
    ratio_clip: Annotated[Float, Field(gt=0), Mark.HYPER] = 0.2
    """ε of PPO's clipped ratio 1 ± ε of new to old action probability."""
    value_clip: Annotated[Float, Mark.HYPER] = 0.2
    """Greatest change of a value in an update, in the value network's own units; 0: no clip."""
    value_loss: Literal["skrl", "max"] = "skrl"
    """Value loss: skrl's, of the clipped value, or max, the original PPO's greater of clipped and unclipped."""
    entropy_loss_scale: Annotated[Float, Mark.HYPER] = 0.0
    """Factor of the entropy bonus."""
    value_loss_scale: Annotated[Float, Field(ge=0), Mark.HYPER] = 2.5
    """Factor of the value loss."""
    kl_threshold: Annotated[Float, Field(ge=0), Mark.HYPER] = 0.0
    """KL divergence above which an epoch ends early; 0: never."""
    rewards_shaper_scale: Annotated[Float, Mark.HYPER] = 1.0
    """Factor of rewards as they are learned from; reported returns are unscaled."""
    time_limit_bootstrap: bool = True
    """Truncated episodes are worth V of their last observation; False: they count as terminated."""
    advantage_normalization: Literal["rollout", "minibatch", "none"] = "rollout"
    """Rows that advantages are normalised over: the rollout's, a minibatch's or none."""
    alpha: Annotated[Float, Field(ge=0), Mark.HYPER] = 0.5
    """Half the width of RPO's perturbation of the means, in action units."""
    mixed_precision: Annotated[bool, Mark.ACTING] = False
    """Layers compute in bfloat16, on GPUs that have it."""
    tf32: Annotated[bool, Mark.ACTING, Mark.LATER] = False
    """GPUs multiply float32 numbers with 10 bits of fraction, which is faster; False: with all 23."""
    changes: Annotated[list[Change], Mark.CHANGES, Mark.LATER] = Field(default_factory=list)
    """Numbers that change while it trains, as pbt found: [{at: 640, learning_rate: 5e-4}, …]; [] for none."""
    experiment: Annotated[Experiment, BeforeValidator(null_to_empty)] = Field(default_factory=Experiment)
    """Outputs: their folder, and how often they are written."""

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

    @model_validator(mode="after")
    def _of_several(self) -> Agent:
        if self.share_parameters is not False and not self.several:
            raise ValueError(
                f"share_parameters {self.share_parameters}: agent.class {self.cls} is of one agent; allowed: False, or "
                "agent.class IPPO or MAPPO"
            )
        return self

    @model_validator(mode="after")
    def _changing(self) -> Agent:
        if self.changes:
            self.phases()
        return self

    def phases(self) -> list[tuple[int, Agent]]:
        """This section as it is from each of its changes on, with the timestep.

        Raises:
            ValueError: what is to change cannot, or not to this.
        """
        data, found = self.model_dump(by_alias=True, exclude={"changes"}), [(0, self)]
        for place, change in enumerate(self.changes):
            here = f"changes.{place}"
            if change.at <= found[-1][0]:
                raise ValueError(f"{here}.at {change.at}: comes after {found[-1][0]}; allowed: in order of time")
            new: dict[str, Any] = dict(change.model_extra or {})
            if not new:
                raise ValueError(f"{here}: nothing changes; allowed: numbers such as learning_rate")
            _check_known(here, new, [*marked(self, Mark.HYPER), _KWARGS])
            if own := sorted(new.keys() & self.of_agents.keys()):
                raise ValueError(f"{here}.{own[0]}: agents have numbers of their own; allowed: numbers of all agents")
            if isinstance(new.get(_KWARGS), Mapping):
                _check_known(f"{here}.{_KWARGS}", new[_KWARGS], marked(KLAdaptiveLR, Mark.HYPER))
                new[_KWARGS] = {**data[_KWARGS], **new[_KWARGS]}
            data |= new
            try:
                found.append((change.at, Agent.model_validate(data)))
            except ValidationError as error:
                raise _below(("changes", place), error) from None
        return found[1:]

    @model_validator(mode="after")
    def _numbers_of_agents(self) -> Agent:
        if self.of_agents and not self.several:
            raise ValueError(f"of_agents: agent.class {self.cls} is of one agent; allowed: {{}}")
        fields = marked(self, Mark.HYPER)
        for name, numbers in self.of_agents.items():
            if name not in fields:
                raise ValueError(f"of_agents: found {name}; allowed: {', '.join(fields)}")
            for agent, number in numbers.items():
                try:
                    self.of(agent)
                except ValidationError as error:
                    what = error.errors()[0]["msg"].removeprefix("Input should be ")
                    raise ValueError(f"{name} of {agent}: found {number!r}; allowed: {what}") from None
        return self

    def of(self, agent: str) -> Agent:
        """The section of one of several agents."""
        own = {name: numbers[agent] for name, numbers in self.of_agents.items() if agent in numbers}
        if not own:
            return self
        return type(self).model_validate({**self.model_dump(by_alias=True), "of_agents": {}, **own})

    @property
    def several(self) -> bool:
        """The algorithm is one of several agents."""
        return self.cls in ("IPPO", "MAPPO")

    @property
    def starts(self) -> int:
        """Timesteps before which nothing is learned."""
        return max(self.random_timesteps, self.learning_starts)
