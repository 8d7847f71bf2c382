"""The `models` section: policy and value networks, and how actions are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from runner.config.marks import CountsAs
from runner.config.network.expressions import Call, names
from runner.config.network.layers import Conv2d, Plan, Recurrent, plan
from runner.config.numbers import Float
from runner.config.section import Section, class_name
from runner.errors import UserError

_Policy = Literal["GaussianMixin", "MultivariateGaussianMixin", "CategoricalMixin", "MultiCategoricalMixin"]
_PROBABILITIES = ("sigmoid", "softmax", "softplus")
"""Output activations whose values may be read as probabilities."""


class NetworkEntry(Section):
    """One entry of a skrl `network:` list."""

    name: str = "net"
    """Word by which later containers and the output read this one."""
    input: str = "OBSERVATIONS"
    """Expression of what the first layer reads: observations, or earlier containers."""
    layers: list[Any] = Field(default_factory=list)
    """Layers in order; a number is a linear layer of so many features."""
    activations: list[str | None] | str | None = None
    """Activation after every layer, or a list with one for each; null: none."""


class Model(Section):
    """Network and output, which policy and value have in common."""

    expected_token: ClassVar[str]
    """The output token that this role needs."""

    network: list[NetworkEntry] = Field(default_factory=list)
    """Containers of layers, computed in order."""
    output: str
    """Expression of what the network gives."""

    @model_validator(mode="after")
    def _readable(self) -> Model:
        token = self.plan.token
        if token not in (self.expected_token, None):
            raise ValueError(f"output {self.output!r} must be built on {self.expected_token}")
        return self

    @property
    def plan(self) -> Plan:
        """Containers and output, read; raises UserError for what cannot be built."""
        return plan([item.model_dump() for item in self.network], self.output)

    def reads(self, token: str) -> bool:
        """A container reads OBSERVATIONS, or STATES."""
        return any(name.text == token for part in self.plan.containers for name in names(part.input))


class PolicyModel(Model):
    """The policy network and its distribution."""

    expected_token = "ACTIONS"
    cls: Annotated[_Policy, class_name(*get_args(_Policy))] = Field("GaussianMixin", alias="class")
    """Distribution of the actions: Gaussian for real numbers, categorical for whole ones."""
    output: str = "ACTIONS"
    """Expression of means or logits; ACTIONS is a linear layer with one output per action number."""
    clip_actions: Annotated[bool | Literal["bounded"], CountsAs("bounded", True)] = False
    """Clipping of the environment's actions to its bounds; bounded: only where it has some, as in skrl 1.x."""
    clip_mean_actions: bool = False
    """Clipping of the means to the environment's bounds, before sampling."""
    clip_log_std: bool = True
    """Clipping of the log standard deviation to min_log_std and max_log_std."""
    min_log_std: Float = -20.0
    """Least log standard deviation, in natural logarithms of action units."""
    max_log_std: Float = 2.0
    """Greatest log standard deviation, in natural logarithms of action units."""
    initial_log_std: Float | Annotated[list[Float], Field(min_length=1)] = 0.0
    """Log standard deviation before training, for all action numbers or a list with one for each."""
    fixed_log_std: bool = False
    """Constant standard deviation: it stays as it began."""
    reduction: Literal["sum", "mean", "prod", "none"] = "sum"
    """Reduction of the log-probabilities of several action numbers to one; none: each has a ratio of its own."""
    unnormalized_log_prob: bool = True
    """Meaning of a categorical policy's outputs: logits, or False: probabilities."""
    action_mask: Literal["auto"] | bool = "auto"
    """Restriction to actions that the environment says are possible; auto: where it says so."""

    @property
    def clips(self) -> bool:
        """Actions are clipped to bounds, where there are some."""
        return self.clip_actions is not False

    @model_validator(mode="after")
    def _consistent(self) -> PolicyModel:
        if self.min_log_std >= self.max_log_std:
            raise ValueError(f"min_log_std {self.min_log_std} must be below max_log_std {self.max_log_std}")
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

    expected_token = "ONE"
    cls: Annotated[Literal["DeterministicMixin"], class_name("DeterministicMixin")] = Field(
        "DeterministicMixin", alias="class"
    )
    """Values are computed, not drawn."""
    output: str = "ONE"
    """Expression of the state value; ONE is a linear layer with one output."""
    clip_actions: bool = False
    """Accepted as in skrl, without effect: a value is no action."""


class Models(Section):
    """Policy and value networks."""

    separate: bool = True
    """Layers of its own for each; False: both read the containers of the one that is listed first."""
    initialization: Literal["torch", "orthogonal"] = "torch"
    """Initial weights: torch's default, or orthogonal with gains √2 (hidden), 0.01 (policy's head), 1 (value's)."""
    policy: PolicyModel
    """The network that chooses actions, and their distribution."""
    value: ValueModel
    """The network that estimates returns."""

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
        return self._has(Conv2d)

    @property
    def recurrent(self) -> bool:
        """Any layer remembers."""
        return self._has(Recurrent)

    def reads(self, token: str) -> bool:
        """A network reads OBSERVATIONS, or STATES."""
        return self.policy.reads(token) or self.value.reads(token)

    def _has(self, kind: type) -> bool:
        containers = [*self.policy.plan.containers, *self.value.plan.containers]
        return any(isinstance(layer, kind) for container in containers for layer, _ in container.layers)
