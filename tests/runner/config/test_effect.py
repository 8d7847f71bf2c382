"""Which settings change nothing, depending on the others."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config import Config, resolve
from runner.config.effect import effective, without_effect
from runner.config.overrides import parse_override
from tests.runner.builders import plain_config

RULES = [
    # setting with two values, where it has no effect, where it has
    ("agent.alpha=0.1,0.2", ["agent.class=PPO"], ["agent.class=RPO"]),
    ("agent.gae_lambda=0.9,0.95", ["agent.rollouts=1"], ["agent.rollouts=2"]),
    ("agent.ratio_clip=0.1,0.2", ["agent.class=A2C", "agent.learning_epochs=1"], ["agent.class=PPO"]),
    ("agent.value_loss=skrl,max", ["agent.value_clip=0"], ["agent.value_clip=0.2"]),
    (
        "agent.observation_statistics=first_epoch,frozen",
        ["agent.observation_preprocessor=null"],
        ["agent.observation_preprocessor=RunningStandardScaler"],
    ),
    (
        "agent.value_preprocessor_kwargs.epsilon=1e-3,1e-4",
        ["agent.value_preprocessor=null"],
        ["agent.value_preprocessor=RunningStandardScaler"],
    ),
    (
        "agent.learning_rate_scheduler_kwargs.kl_threshold=0.01,0.02",
        ["agent.learning_rate_scheduler=linear"],
        ["agent.learning_rate_scheduler=KLAdaptiveLR"],
    ),
    ("agent.learning_starts=3,4", ["agent.random_timesteps=4"], ["agent.random_timesteps=0"]),
    ("compile=True,False", ["backend=jax"], ["backend=torch"]),
    ("compile=True,False", ["models.policy.network.0.layers=[{gru: 2}]"], ["models.policy.network.0.layers=[2]"]),
    ("evaluation.episodes=5,6", ["evaluation.interval=0"], ["evaluation.interval=8"]),
    ("trainer.stochastic_evaluation=True,False", ["evaluation.interval=0"], ["evaluation.interval=8"]),
    ("models.policy.min_log_std=-5,-6", ["models.policy.clip_log_std=False"], ["models.policy.clip_log_std=True"]),
    ("models.policy.fixed_log_std=True,False", ["models.policy.class=CategoricalMixin"], []),
    ("models.policy.reduction=sum,mean", ["models.policy.class=MultivariateGaussianMixin"], []),
    ("models.policy.action_mask=auto,False", [], ["models.policy.class=CategoricalMixin"]),
]


def config(*settings: str) -> Config:
    parsed = [parse_override(setting) for setting in ("trainer.timesteps=64", "agent.rollouts=4", *settings)]
    return resolve(plain_config(), None, [(key, value) for key, (value,) in parsed])[0]


@pytest.mark.parametrize(("setting", "idle", "busy"), RULES)
def test_a_setting_without_effect_makes_one_run_of_two(setting: str, idle: list[str], busy: list[str]) -> None:
    key, _, values = setting.partition("=")
    first, second = (f"{key}={value}" for value in values.split(","))
    assert effective(config(*idle, first)) == effective(config(*idle, second))
    assert effective(config(*busy, first)) != effective(config(*busy, second))
    named = parse_override(first)[0]
    reasons, others = (without_effect(config(*some, first)) for some in (idle, busy))
    assert any(named[: len(known)] == known and reason for known, reason in reasons.items())
    assert not any(named[: len(known)] == known for known in others)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["agent.class=A2C", "agent.learning_epochs=1"],
        ["models.policy.class=CategoricalMixin"],
        ["models.policy.class=MultivariateGaussianMixin"],
        ["models.policy.clip_log_std=False"],
        ["agent.value_clip=0", "agent.grad_norm_clip=0"],
    ],
)
def test_all_that_is_named_is_a_setting(settings: list[str]) -> None:
    found = config(*settings)
    for key in without_effect(found):
        section: Any = found.dump()
        for part in key:
            assert part in section, key
            section = section[part]


def test_other_settings_make_other_runs() -> None:
    texts = {effective(config(*some)) for some in ([], ["seed=2"], ["agent.ratio_clip=0.3"], ["env.num_envs=7"])}
    assert len(texts) == 4


def test_numbers_of_an_environment_are_equal_in_any_spelling() -> None:
    assert effective(config("env.x=1")) == effective(config("env.x=1.0")) != effective(config("env.x=2"))
    assert effective(config("env.x=True")) != effective(config("env.x=1"))
