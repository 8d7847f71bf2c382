"""Keys of a configuration that change nothing in a launch, and why; so that nobody sweeps them for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runner.config import keys
from runner.config.load import Key
from runner.config.models import PolicyModel
from runner.config.schedules import SCHEDULES
from runner.config.schema import Config
from runner.config.skrl.eras import Era

_FOR_SKRL = "it is accepted for the sake of skrl's files and does nothing here"
_GAUSSIAN = ("clip_actions", "clip_mean_actions", "clip_log_std", "min_log_std", "max_log_std", "initial_log_std")


def without_effect(config: Config) -> dict[Key, str]:
    """Keys, or beginnings of keys, that change nothing where the others are as in this configuration → why."""
    return {
        **dict.fromkeys(_of_skrl(), _FOR_SKRL),
        **dict(_of_launch(config)),
        **dict(_of_agent(config)),
        **dict(_of_schedule(config.agent.learning_rate_scheduler)),
        **dict(_of_policy(config.models.policy)),
    }


def _of_skrl() -> Iterator[Key]:
    yield from (tuple(entry.key.split(".")) for entry in keys.entries() if entry.text.startswith(keys.ACCEPTED))
    yield ("memory",)


def _of_launch(config: Config) -> Iterator[tuple[Key, str]]:
    for name in ("directory", "experiment_name"):
        yield ("agent", "experiment", name), "all trials of a launch are written into one directory"
    yield ("trainer", "disable_progressbar"), "a launch has a display of its own"
    if not config.evaluation.interval:
        yield ("evaluation", "episodes"), "evaluation.interval is 0"
        yield ("trainer", "stochastic_evaluation"), "evaluation.interval is 0 (launch eval has --stochastic)"
    if config.backend == "jax":
        yield ("compile",), "it is torch's, and backend is jax"
    elif config.models.recurrent:
        yield ("compile",), "networks with lstm or gru layers run uncompiled"


def _of_agent(config: Config) -> Iterator[tuple[Key, str]]:
    agent = config.agent
    if agent.cls != "RPO":
        yield ("agent", "alpha"), f"it is RPO's, and agent.class is {agent.cls}"
    if not agent.several:
        yield ("agent", "team_return"), f"agent.class {agent.cls} is of one agent"
    if agent.cls == "A2C":
        yield ("agent", "ratio_clip"), "A2C's policy loss has no ratio"
    for name in ("observation_preprocessor", "state_preprocessor", "value_preprocessor"):
        if getattr(agent, name) is None:
            yield ("agent", f"{name}_kwargs"), f"there is no agent.{name}"
    if agent.observation_preprocessor is None and agent.state_preprocessor is None:
        yield ("agent", "observation_statistics"), "there is no agent.observation_preprocessor"
    if agent.rollouts == 1:
        yield ("agent", "gae_lambda"), "agent.rollouts is 1, and λ weighs later timesteps"
    # Numbers change while it trains, and each of several agents may have its own.
    own = {name for numbers in agent.of_agents.values() for name in numbers}
    sections = [agent, *(later for _, later in agent.phases()), *map(agent.of, own)]
    if all(section.value_clip <= 0 for section in sections):
        yield ("agent", "value_loss"), "agent.value_clip is off"
        yield ("agent", "value_clip"), "0 and less switch it off"
    if all(section.grad_norm_clip <= 0 for section in sections):
        yield ("agent", "grad_norm_clip"), "0 and less switch it off"
    if agent.learning_starts <= agent.random_timesteps:
        yield ("agent", "learning_starts"), f"agent.random_timesteps {agent.random_timesteps} already last as long"


def _of_schedule(scheduler: str | None) -> Iterator[tuple[Key, str]]:
    if scheduler is None:
        yield ("agent", "learning_rate_scheduler_kwargs"), "there is no agent.learning_rate_scheduler"
    elif scheduler != "KLAdaptiveLR":
        for name in ("kl_threshold", "min_lr", "max_lr", "kl_factor", "lr_factor"):
            why = f"it is KLAdaptiveLR's, and agent.learning_rate_scheduler is {scheduler}"
            yield ("agent", "learning_rate_scheduler_kwargs", name), why


def _of_policy(policy: PolicyModel) -> Iterator[tuple[Key, str]]:
    why = f"models.policy.class is {policy.cls}"
    if "Categorical" in policy.cls:
        for name in (*_GAUSSIAN, "fixed_log_std"):
            yield ("models", "policy", name), why
        return
    for name in ("unnormalized_log_prob", "action_mask"):
        yield ("models", "policy", name), why
    if policy.cls == "MultivariateGaussianMixin":
        yield ("models", "policy", "reduction"), why
    if not policy.clip_log_std:
        for name in ("min_log_std", "max_log_std"):
            yield ("models", "policy", name), "models.policy.clip_log_std is False"


def shared_role(data: Mapping[str, Any], era: Era) -> str:
    """The role whose network both read where `models.separate` is False: the first in the file, the policy in Orbit."""
    models = data.get("models")
    if era is Era.ORBIT or not isinstance(models, Mapping):
        return "policy"
    return next((role for role in models if role in ("policy", "value")), "policy")


def effective(config: Config) -> str:
    """Canonical text of all that has an effect, seed included: equal for two configurations that are one run.

    Networks, schedules and lists of one number are compared as they are built, not as they are written.
    """
    data = config.dump()
    agent, policy = data["agent"], data["models"]["policy"]
    if agent["learning_rate_scheduler"] is not None:
        agent["learning_rate_scheduler"] = SCHEDULES[agent["learning_rate_scheduler"]].__name__
    for block, name in ((agent, "learning_rate"), (policy, "initial_log_std")):
        if isinstance(block[name], list) and len(set(block[name])) == 1:
            block[name] = block[name][0]
    for role, model in (("policy", config.models.policy), ("value", config.models.value)):
        data["models"][role] |= {"network": repr(model.plan), "output": None}
    for key in without_effect(config):
        *path, last = key
        section: Any = data
        for part in path:
            section = section[part]
        section.pop(last, None)
    env = data["env"]
    data["env"] = {name: float(env[name]) if type(env[name]) is int else env[name] for name in env}  # 1 is 1.0 there
    return json.dumps(data, sort_keys=True)
