"""The distributions that a policy's actions are drawn from: the neutral description that both backends build."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from runner.config.models import PolicyModel
from runner.envs.spaces import ActionSpace, Layout, mask_columns
from runner.errors import UserError

IMPOSSIBLE = -1e9
"""Logit of an action that is not possible: its probability is 0, and its product with 0 is finite."""


@dataclass(frozen=True)
class Distribution:
    """A distribution of actions; hashable, so that it can key compiled programs.

    Attributes:
        factors: categories of every discrete action, one after the other in the network's output; empty for a Gaussian.
        units: numbers that the network gives (A): means, or one per category.
        reduction: how log-probabilities of several actions become one; "none" keeps them.
        probabilities: the network gives probabilities, not logits.
        low: bounds of a Gaussian's actions, which may be infinite; none where all are.
        high: as many as `low`.
        clips_means: means are clipped to these bounds.
        mask: column of the observation that says whether a category is possible, for each one; or none.
        joint: the mask speaks of combinations: logits of a combination are the sum of its parts', and one combination
            is drawn.
        initial_log_std: of a Gaussian, one number for all dimensions or one for each.
    """

    factors: tuple[int, ...]
    units: int
    reduction: str
    probabilities: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    clips_means: bool = False
    mask: tuple[int, ...] = ()
    joint: bool = False
    initial_log_std: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, policy: PolicyModel, actions: ActionSpace, observations: Layout) -> Distribution:
        """The distribution that a policy model means in an environment."""
        if policy.cls not in actions.policies:
            raise UserError(
                f"models.policy.class: {policy.cls} cannot act in an action space {actions.kind}; allowed here: "
                f"{' or '.join(actions.policies)}"
            )
        if actions.discrete:
            mask, joint = _mask(policy, actions, observations)
            probabilities = not policy.unnormalized_log_prob
            return cls(actions.sizes, actions.units, policy.reduction, probabilities, mask=mask, joint=joint)
        if policy.action_mask is True:
            raise UserError("models.policy.action_mask: True, but actions are real numbers, which have no mask")
        for name in ("clip_actions", "clip_mean_actions"):
            if getattr(policy, name) is True and not actions.bounded:
                raise UserError(
                    f"models.policy.{name}: True, but the action space has no finite bounds "
                    f"(low {actions.low.tolist()}, high {actions.high.tolist()}); set it to False"
                )
        given = policy.initial_log_std
        initial = tuple(given) if isinstance(given, list) else (given,)
        if len(initial) not in (1, actions.units):
            raise UserError(
                f"models.policy.initial_log_std: {len(initial)} numbers for {actions.units} action dimensions; "
                "allowed: one number, or one for each"
            )
        low, high = (tuple(map(float, bound)) if actions.bounded else () for bound in (actions.low, actions.high))
        # A Gaussian with a diagonal covariance is its dimensions' product.
        reduction = "sum" if policy.cls == "MultivariateGaussianMixin" else policy.reduction
        clips = policy.clip_mean_actions
        return cls((), actions.units, reduction, low=low, high=high, clips_means=clips, initial_log_std=initial)

    @property
    def gaussian(self) -> bool:
        """Real numbers around means."""
        return not self.factors

    @property
    def enclosed(self) -> bool:
        """Every dimension of a Gaussian's actions has two finite bounds."""
        return bool(self.low) and all(map(math.isfinite, self.low + self.high))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Categories of what is drawn; empty for a Gaussian."""
        return (math.prod(self.factors),) if self.joint else self.factors

    @property
    def width(self) -> int:
        """Means, or logits of what is drawn: also how many numbers of noise a draw takes (W)."""
        return sum(self.sizes) or self.units

    @property
    def chosen(self) -> int:
        """Numbers in what is drawn (K): action dimensions, or one category for each size."""
        return len(self.sizes) or self.units

    def reduced(self, terms: Any) -> Any:
        """Log-probabilities `[…, K]` of a backend, as one `[…]`; as they are where the distribution is `split`."""
        if self.reduction == "none" or self.chosen == 1:
            return terms if self.split else terms.squeeze(-1)
        return {"sum": terms.sum, "mean": terms.mean, "prod": terms.prod}[self.reduction](-1)

    @property
    def split(self) -> bool:
        """Log-probabilities are one for each of several dimensions."""
        return self.reduction == "none" and self.chosen > 1


def remark(policy: PolicyModel, actions: ActionSpace, observations: Layout) -> str | None:
    """The remark that a person should read on a policy that can act in an environment."""
    if actions.discrete and policy.action_mask == "auto" and observations.mask is not None:
        unread = not _mask(policy, actions, observations)[0]
        return f"{_unfit(actions, observations.mask)}; it is an observation, and masks nothing" if unread else None
    if policy.clip_actions != "bounded" or actions.discrete or actions.bounded:
        return None
    return "models.policy.clip_actions: the action space has no finite bounds; nothing is clipped, as in skrl 1.x"


def _unfit(actions: ActionSpace, mask: Layout) -> str:
    return (
        f"models.policy.action_mask: the environment's mask of shape {mask.shape} fits neither each action nor their "
        f"combinations ({actions.kind})"
    )


def _mask(policy: PolicyModel, actions: ActionSpace, observations: Layout) -> tuple[tuple[int, ...], bool]:
    """The mask's column for every category, and whether it is of combinations."""
    part = observations.mask
    if policy.action_mask is False or (part is None and policy.action_mask == "auto"):
        return (), False
    if part is None:
        raise UserError("models.policy.action_mask: True, but the environment's observation has no action_mask")
    found = mask_columns(actions, part)
    if found[0]:
        return found
    if policy.action_mask == "auto":
        return (), False
    raise UserError(f"{_unfit(actions, part)}; set it to False")
