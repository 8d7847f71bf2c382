"""skrl's algorithms, told by a configuration: those with PPO's or A2C's loss are ours, others are refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.config.load import Key, Source
from runner.errors import UserError

OURS = ("PPO", "RPO", "A2C", "IPPO", "MAPPO")
_OTHERS = ("AMP", "CEM", "DDPG", "DDQN", "DQN", "Q_LEARNING", "SAC", "SARSA", "TD3", "TRPO")
_RECURRENT = "_RNN"
_OWN_KEYS = {
    "SAC": ("learn_entropy", "entropy_learning_rate", "initial_entropy_value", "target_entropy"),
    "TD3": ("policy_delay", "smooth_regularization_noise", "smooth_regularization_clip"),
    "AMP": ("amp_state_preprocessor", "discriminator_loss_scale", "discriminator_reward_scale", "amp_batch_size"),
    "DQN": ("target_update_interval", "update_interval"),
    "CEM": ("percentile",),
}
"""Keys of `agent` that no other algorithm has, most telling first."""
_ON_POLICY = {"rollouts", "learning_epochs", "mini_batches", "lambda", "gae_lambda"}
_OFF_POLICY = ("actor_learning_rate", "critic_learning_rate", "polyak", "gradient_steps")
_IN_NAME = re.compile(r"(?:^|[^a-z])(trpo|rpo)(?![a-z])")


def check_class(value: Any, where: str) -> None:
    """Refuse the name of another algorithm."""
    name = str(value).rsplit(".", 1)[-1].upper()
    plain = name.removesuffix(_RECURRENT)
    if plain != name and plain in OURS:
        raise UserError(
            f"{where}: class {name} of skrl is not supported; allowed: {plain}, with layers such as {{lstm: 64}} in a "
            "network"
        )
    if plain in _OTHERS:
        raise UserError(f"{where}: class {name} of skrl is not supported; allowed: {', '.join(OURS)}")


def check_keys(data: Mapping[str, Any], source: Source) -> None:
    """Refuse what names no class and has another algorithm's keys, as files of Orbit do."""
    agent, models = (
        section if isinstance(section, Mapping) else {} for section in (data.get("agent"), data.get("models"))
    )
    own = ((name, ("agent", key)) for name, keys in _OWN_KEYS.items() for key in keys if key in agent)
    found: tuple[str, Key] | None = next(own, None)
    critic = next((role for role in models if str(role).startswith(("critic_", "target_critic"))), None)
    if found is None and ("value" not in models or not _ON_POLICY & agent.keys()):
        off_policy = next((key for key in _OFF_POLICY if key in agent), None)
        if off_policy is not None or critic is not None:
            found = _by_file(source), ("agent", off_policy) if off_policy is not None else ("models", str(critic))
    if found is not None:
        check_class(found[0], source.where(found[1]))


def _by_file(source: Source) -> str:
    """An algorithm with actor and critics: the one that the file's name says."""
    name = Path(source.name).stem.upper()
    return next((other for other in ("SAC", "TD3") if other in name), "DDPG")


def trained_as_ppo(source: Source) -> str | None:
    """TRPO or RPO, where the file's name says that; without a class skrl 1.x trains it as PPO all the same."""
    match = _IN_NAME.search(Path(source.name).stem.casefold())
    return match[1].upper() if match else None
