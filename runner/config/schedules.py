"""Learning-rate schedules by name: skrl's, torch's and optax's, as plain functions of how much training is done.

KLAdaptiveLR depends on what is learned and lives in the backends; all others are closed forms, counted in learning
epochs, which is when skrl steps its schedulers. torch's and optax's have their own argument names and formulas.
"""

from __future__ import annotations

import bisect
import math
import sys
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from runner.config.marks import Mark
from runner.config.numbers import Float, Int
from runner.config.section import Section

Positive = Annotated[Float, Field(gt=0)]
Share = Annotated[Float, Field(ge=0, le=1)]
Factor = Annotated[Float, Field(gt=0, le=1)]
Count = Annotated[Int, Field(ge=1, le=10**12)]
Start = Annotated[Int, Field(ge=0, le=10**12)]


class Schedule(Section):
    """A schedule's arguments."""

    of_whole_training: ClassVar[bool] = False
    """Rates depend on how long training is to be."""

    def rate(self, initial: float, epoch: int, done: float) -> float:
        """The learning rate of an epoch.

        Args:
            initial: the configured one.
            epoch: learning epochs before this one, of all updates.
            done: updates before this one over all updates.
        """
        return initial * self._factor(epoch, done)

    def _factor(self, epoch: int, done: float) -> float:
        """The rate over the configured one."""
        raise NotImplementedError


def _power(base: float, exponent: float) -> float:
    """A growing rate's factor, which torch lets grow to infinity and Python would call an error."""
    try:
        return float(base**exponent)
    except OverflowError:
        return sys.float_info.max


class KLAdaptiveLR(Schedule):
    """skrl's: divides or multiplies the rate by `lr_factor` where the KL is too large or too small."""

    kl_threshold: Annotated[Positive, Mark.HYPER] = 0.008
    """KL divergence of an epoch that is aimed at."""
    min_lr: Annotated[Positive, Mark.HYPER] = 1e-6
    """Least learning rate."""
    max_lr: Annotated[Positive, Mark.HYPER] = 1e-2
    """Greatest learning rate."""
    kl_factor: Annotated[Float, Field(ge=1), Mark.HYPER] = 2.0
    """Factor by which a KL may be above or below the threshold."""
    lr_factor: Annotated[Float, Field(ge=1), Mark.HYPER] = 1.5
    """Factor that the rate is divided or multiplied by."""

    @model_validator(mode="after")
    def _ordered(self) -> KLAdaptiveLR:
        if self.min_lr > self.max_lr:
            raise ValueError(f"min_lr {self.min_lr} must not be above max_lr {self.max_lr}")
        return self


class Linear(Schedule):
    """Linear to zero over the whole training, in equal steps per update."""

    of_whole_training = True

    def _factor(self, epoch: int, done: float) -> float:
        return 1 - done


class Cosine(Schedule):
    """Half a cosine to zero over the whole training, per update."""

    of_whole_training = True

    def _factor(self, epoch: int, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


class ConstantLR(Schedule):
    """torch: `factor` times the rate for the first `total_iters` epochs."""

    factor: Factor = 1 / 3
    total_iters: Count = 5

    def _factor(self, epoch: int, done: float) -> float:
        return self.factor if epoch < self.total_iters else 1.0


class LinearLR(Schedule):
    """torch: from `start_factor` to `end_factor` of the rate in `total_iters` epochs."""

    start_factor: Factor = 1 / 3
    end_factor: Share = 1.0
    total_iters: Count = 5

    def _factor(self, epoch: int, done: float) -> float:
        part = min(epoch, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * part


class ExponentialLR(Schedule):
    """torch: times `gamma` after every epoch."""

    gamma: Positive

    def _factor(self, epoch: int, done: float) -> float:
        return _power(self.gamma, epoch)


class StepLR(Schedule):
    """torch: times `gamma` after every `step_size` epochs."""

    step_size: Count
    gamma: Positive = 0.1

    def _factor(self, epoch: int, done: float) -> float:
        return _power(self.gamma, epoch // self.step_size)


class MultiStepLR(Schedule):
    """torch: times `gamma` at each of `milestones` epochs."""

    milestones: Annotated[list[Start], Field(min_length=1, max_length=1000)]
    gamma: Positive = 0.1

    def _factor(self, epoch: int, done: float) -> float:
        return _power(self.gamma, bisect.bisect_right(sorted(self.milestones), epoch))


class PolynomialLR(Schedule):
    """torch: (1 − epoch / total_iters)^power of the rate."""

    total_iters: Count = 5
    power: Positive = 1.0

    def _factor(self, epoch: int, done: float) -> float:
        return (1 - min(epoch, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingLR(Schedule):
    """torch: half a cosine from the rate to `eta_min` in `T_max` epochs, and back."""

    T_max: Count
    eta_min: Annotated[Float, Field(ge=0)] = 0.0

    def rate(self, initial: float, epoch: int, done: float) -> float:
        """The learning rate of an epoch."""
        return self.eta_min + (initial - self.eta_min) * (1 + math.cos(math.pi * epoch / self.T_max)) / 2


class _Optax(Schedule):
    """optax's say the rate itself; their `init_value` is the configured rate where it is not given."""

    init_value: Annotated[Float, Field(ge=0)] | None = None

    def rate(self, initial: float, epoch: int, done: float) -> float:
        """The learning rate of an epoch."""
        return self._rate(initial if self.init_value is None else self.init_value, epoch)

    def _rate(self, first: float, epoch: int) -> float:
        raise NotImplementedError


class LinearSchedule(_Optax):
    """optax: from `init_value` to `end_value` in `transition_steps` epochs."""

    end_value: Annotated[Float, Field(ge=0)]
    transition_steps: Count
    transition_begin: Start = 0

    def _rate(self, first: float, epoch: int, power: float = 1.0) -> float:
        part = 1 - min(max(epoch - self.transition_begin, 0), self.transition_steps) / self.transition_steps
        return (first - self.end_value) * part**power + self.end_value


class PolynomialSchedule(LinearSchedule):
    """optax: the same, along a power of the part that is left."""

    power: Positive

    def _rate(self, first: float, epoch: int, power: float = 1.0) -> float:
        return super()._rate(first, epoch, self.power)


class ExponentialDecay(_Optax):
    """optax: times `decay_rate` every `transition_steps` epochs, smoothly unless `staircase`."""

    transition_steps: Count
    decay_rate: Positive
    transition_begin: Start = 0
    staircase: bool = False
    end_value: Annotated[Float, Field(ge=0)] | None = None

    def _rate(self, first: float, epoch: int) -> float:
        passed = max(epoch - self.transition_begin, 0) / self.transition_steps
        rate = first * _power(self.decay_rate, math.floor(passed) if self.staircase else passed)
        if self.end_value is None:
            return rate
        return max(rate, self.end_value) if self.decay_rate < 1 else min(rate, self.end_value)


class CosineDecaySchedule(_Optax):
    """optax: half a cosine from `init_value` to `alpha` of it in `decay_steps` epochs."""

    decay_steps: Count
    alpha: Share = 0.0
    exponent: Positive = 1.0

    def _rate(self, first: float, epoch: int) -> float:
        part = min(epoch, self.decay_steps) / self.decay_steps
        cosine = (0.5 * (1 + math.cos(math.pi * part))) ** self.exponent
        return first * ((1 - self.alpha) * cosine + self.alpha)


SCHEDULES: dict[str, type[Schedule]] = {
    "KLAdaptiveLR": KLAdaptiveLR,
    "linear": Linear,
    "cosine": Cosine,
    "exponential": ExponentialLR,
    "step": StepLR,
    "ConstantLR": ConstantLR,
    "LinearLR": LinearLR,
    "ExponentialLR": ExponentialLR,
    "StepLR": StepLR,
    "MultiStepLR": MultiStepLR,
    "PolynomialLR": PolynomialLR,
    "CosineAnnealingLR": CosineAnnealingLR,
    "linear_schedule": LinearSchedule,
    "polynomial_schedule": PolynomialSchedule,
    "exponential_decay": ExponentialDecay,
    "cosine_decay_schedule": CosineDecaySchedule,
}
"""Names for `agent.learning_rate_scheduler` → arguments and formula."""


def without_effect(given: Mapping[Any, Any]) -> list[str]:
    """torch's arguments in a file that change no learning rate: any `verbose`, and the `last_epoch` of a new run."""
    none: dict[str, tuple[Any, ...]] = {"verbose": (True, False), "last_epoch": (-1,)}
    return [key for key, values in none.items() if key in given and given[key] in values]


def arguments(name: str | None, given: Any) -> Schedule:
    """Read a schedule's arguments; KLAdaptiveLR's numbers may stay where another schedule, or none, is set."""
    kind = arguments_of(name)
    if isinstance(given, Schedule):
        given = given.model_dump()
    if isinstance(given, dict):
        unused = {*without_effect(given), *KLAdaptiveLR.model_fields} - kind.model_fields.keys()
        given = {key: value for key, value in given.items() if key not in unused}
    return kind.model_validate({} if given is None else given)


def canonical_name(name: Any) -> str | None:
    """A schedule's name in SCHEDULES from its name, or its module and name, in any case; None for an unknown one."""
    folded = name.rsplit(".", 1)[-1].casefold() if isinstance(name, str) else None
    return next((known for known in SCHEDULES if known.casefold() == folded), None)


def arguments_of(name: Any) -> type[Schedule]:
    """The arguments of a schedule, KLAdaptiveLR's for none or an unknown one."""
    known = canonical_name(name)
    return KLAdaptiveLR if known is None else SCHEDULES[known]
