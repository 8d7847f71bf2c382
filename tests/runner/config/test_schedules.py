"""Learning-rate schedules by name: the numbers of the real torch and optax functions, and how arguments are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
import torch

from runner.config import load_config, resolve
from runner.config.schedules import SCHEDULES, KLAdaptiveLR, Schedule
from runner.errors import UserError
from tests.runner.builders import plain_config

RATE = 3e-3
EPOCHS = 60

TORCH: list[tuple[str, dict[str, Any]]] = [
    ("ConstantLR", {}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 40}),
    ("ConstantLR", {"factor": 1.0, "total_iters": 1}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 60}),
    ("LinearLR", {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 1}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 17}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("ExponentialLR", {"gamma": 1.1}),
    ("StepLR", {"step_size": 7}),
    ("StepLR", {"step_size": 1, "gamma": 0.97}),
    ("StepLR", {"step_size": 100, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [10, 30]}),
    ("MultiStepLR", {"milestones": [30, 10, 10, 59], "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [1], "gamma": 2.0}),
    ("PolynomialLR", {}),
    ("PolynomialLR", {"total_iters": 50, "power": 2.0}),
    ("PolynomialLR", {"total_iters": 80, "power": 0.5}),
    ("CosineAnnealingLR", {"T_max": 60}),
    ("CosineAnnealingLR", {"T_max": 13, "eta_min": 1e-4}),
    ("CosineAnnealingLR", {"T_max": 1, "eta_min": 1e-2}),
]
OPTAX: list[tuple[str, dict[str, Any]]] = [
    ("linear_schedule", {"end_value": 0.0, "transition_steps": 60}),
    ("linear_schedule", {"end_value": 1e-2, "transition_steps": 20, "transition_begin": 15}),
    ("linear_schedule", {"init_value": 1e-5, "end_value": 1e-3, "transition_steps": 1}),
    ("polynomial_schedule", {"end_value": 1e-4, "power": 2.0, "transition_steps": 30, "transition_begin": 5}),
    ("polynomial_schedule", {"init_value": 0.1, "end_value": 1.0, "power": 0.5, "transition_steps": 100}),
    ("exponential_decay", {"transition_steps": 10, "decay_rate": 0.5}),
    ("exponential_decay", {"transition_steps": 7, "decay_rate": 0.5, "staircase": True, "transition_begin": 4}),
    ("exponential_decay", {"transition_steps": 5, "decay_rate": 0.8, "end_value": 1e-3}),
    ("exponential_decay", {"transition_steps": 5, "decay_rate": 1.5, "end_value": 2e-2, "transition_begin": 9}),
    ("exponential_decay", {"init_value": 1e-2, "transition_steps": 1, "decay_rate": 1.0, "end_value": 1e-3}),
    ("cosine_decay_schedule", {"decay_steps": 60}),
    ("cosine_decay_schedule", {"decay_steps": 25, "alpha": 0.1, "exponent": 2.0}),
    ("cosine_decay_schedule", {"init_value": 1.0, "decay_steps": 1, "alpha": 1.0}),
]


def schedule(name: str, arguments: dict[str, Any] | None = None) -> Schedule:
    """What a configuration makes of a schedule's name and arguments."""
    given = {"agent.learning_rate_scheduler": name, "agent.learning_rate_scheduler_kwargs": arguments}
    return resolve(plain_config(given))[0].agent.learning_rate_scheduler_kwargs


def rates(found: Schedule) -> list[float]:
    """Of every epoch, one epoch to an update."""
    return [found.rate(RATE, epoch, epoch / EPOCHS) for epoch in range(EPOCHS)]


def label(value: Any) -> str:
    return "-".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


# ---------------------------------------------------------------------------------------------- formulas


def torchs(name: str, arguments: dict[str, Any]) -> list[float]:
    """The learning rates that torch's scheduler sets, stepped once per epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    found = []
    for _ in range(EPOCHS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("name", "arguments"), TORCH, ids=label)
def test_torchs_schedules_are_torchs(name: str, arguments: dict[str, Any]) -> None:
    np.testing.assert_allclose(rates(schedule(name, arguments)), torchs(name, arguments), rtol=1e-9, atol=1e-12 * RATE)


@pytest.mark.parametrize(
    ("short", "name", "arguments"),
    [("exponential", "ExponentialLR", {"gamma": 0.8}), ("step", "StepLR", {"step_size": 9, "gamma": 0.3})],
)
def test_short_names_are_torchs_schedules(short: str, name: str, arguments: dict[str, Any]) -> None:
    np.testing.assert_allclose(rates(schedule(short, arguments)), torchs(name, arguments), rtol=1e-9)


@pytest.mark.parametrize(("name", "arguments"), OPTAX, ids=label)
def test_optaxs_schedules_are_optaxs(name: str, arguments: dict[str, Any]) -> None:
    real = getattr(optax, name)(**{"init_value": RATE, **arguments})
    expected = np.broadcast_to(real(np.arange(EPOCHS)), EPOCHS)
    np.testing.assert_allclose(rates(schedule(name, arguments)), expected, rtol=3e-6, atol=1e-7 * RATE)


def test_every_schedule_of_torch_and_optax_is_compared() -> None:
    compared = {name for name, _ in [*TORCH, *OPTAX]}
    assert set(SCHEDULES) - compared == {"KLAdaptiveLR", "linear", "cosine", "exponential", "step"}


def test_linear_and_cosine_follow_the_updates_done() -> None:
    linear, cosine = schedule("linear"), schedule("cosine")
    for epoch in (0, 7, 10_000):  # epochs within an update do not matter
        assert linear.rate(0.5, epoch, 0.0) == cosine.rate(0.5, epoch, 0.0) == 0.5
        assert linear.rate(0.5, epoch, 0.25) == 0.375
        assert cosine.rate(0.5, epoch, 0.25) == pytest.approx(0.25 * (1 + math.sqrt(0.5)))
        assert cosine.rate(0.5, epoch, 0.5) == pytest.approx(0.25)
        assert linear.rate(0.5, epoch, 1.0) == cosine.rate(0.5, epoch, 1.0) == 0.0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ExponentialLR", {"gamma": 10.0}),
        ("StepLR", {"step_size": 1, "gamma": 10.0}),
        ("MultiStepLR", {"milestones": [0] * 1000, "gamma": 10.0}),
        ("exponential_decay", {"transition_steps": 1, "decay_rate": 10.0}),
    ],
)
def test_a_rate_beyond_every_number_is_infinite_and_no_error(name: str, arguments: dict[str, Any]) -> None:
    assert schedule(name, arguments).rate(10.0, 1000, 0.5) == math.inf
    assert schedule(name, arguments).rate(0.0, 1000, 0.5) == 0.0


def test_growth_without_end_stops_at_the_end_value() -> None:
    arguments = {"transition_steps": 1, "decay_rate": 10.0, "end_value": 0.25}
    assert schedule("exponential_decay", arguments).rate(RATE, 1000, 0.5) == 0.25


# ---------------------------------------------------------------------------------------------- names and arguments


@pytest.mark.parametrize("name", SCHEDULES)
def test_names_are_read_in_any_case_and_with_their_module(name: str) -> None:
    arguments = next((given for known, given in [*TORCH, *OPTAX] if SCHEDULES[known] is SCHEDULES[name]), {})
    plain = schedule(name, arguments)
    assert type(plain) is SCHEDULES[name]
    for spelling in (name.upper(), name.lower(), f"torch.optim.lr_scheduler.{name}", f"optax.{name.swapcase()}"):
        data = plain_config(
            {"agent.learning_rate_scheduler": spelling, "agent.learning_rate_scheduler_kwargs": arguments}
        )
        agent = resolve(data)[0].agent
        assert (agent.learning_rate_scheduler, agent.learning_rate_scheduler_kwargs) == (name, plain)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_survives_the_dump(name: str) -> None:
    arguments = next((given for known, given in [*TORCH, *OPTAX] if SCHEDULES[known] is SCHEDULES[name]), {})
    given = {"agent.learning_rate_scheduler": name, "agent.learning_rate_scheduler_kwargs": arguments}
    config = resolve(plain_config(given))[0]
    assert resolve(config.dump()) == (config, [])


def test_numbers_of_kl_adaptive_may_stay_where_another_schedule_is_set() -> None:
    leftover = {"kl_threshold": 0.02, "min_lr": 1e-5, "max_lr": 1e-3, "kl_factor": 3, "lr_factor": 2}
    assert schedule("linear", leftover) == schedule("linear")
    assert schedule("StepLR", {**leftover, "step_size": 3, "verbose": False}) == schedule("StepLR", {"step_size": 3})
    assert schedule("KLAdaptiveLR", leftover) == KLAdaptiveLR(**leftover)


HEAD = """models:
  policy: {class: GaussianMixin}
  value: {}
agent:
"""
REFUSED: dict[str, tuple[str, str]] = {
    # name and arguments: line and key, what is said of it
    "StepLR {gamma: 0.1}": ("cfg.yaml:6: agent.learning_rate_scheduler_kwargs.step_size", "required, but not given"),
    "steplr {gamma: 0.1}": ("cfg.yaml:6: agent.learning_rate_scheduler_kwargs.step_size", "required, but not given"),
    "MultiStepLR null": ("cfg.yaml:6: agent.learning_rate_scheduler_kwargs.milestones", "required, but not given"),
    "linear_schedule {end_value: 0}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.transition_steps", "required, but not given",
    ),
    "StepLR {step_size: 3, gama: 0.1}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.gama", "unknown key. Did you mean 'gamma'?",
    ),
    "torch.optim.lr_scheduler.StepLR {step_size: 3, xyz: 0.1}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.xyz", "unknown key. Allowed here: gamma, step_size.",
    ),
    "linear {step_size: 3}": ("cfg.yaml:6: agent.learning_rate_scheduler_kwargs.step_size", "unknown key."),
    "linear_schedule {end_value: 0, transition_steps: 9, power: 1}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.power", "unknown key.",
    ),
    "KLAdaptiveLR {kl_treshold: 0.1}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.kl_treshold", "unknown key. Did you mean 'kl_threshold'?",
    ),
    "StepLR {step_size: 0}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.step_size", "found 0; allowed: whole number from 1",
    ),
    "StepLR {step_size: 2.5}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.step_size", "found 2.5; allowed: whole number",
    ),
    "ConstantLR {total_iters: 0}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.total_iters", "found 0; allowed: whole number from 1",
    ),
    "ConstantLR {factor: 0}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.factor", "found 0; allowed: number above 0",
    ),
    "ExponentialLR {gamma: abc}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.gamma", "found 'abc'; allowed: number",
    ),
    "ExponentialLR {gamma: .nan}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.gamma", "found nan; allowed: finite number",
    ),
    "MultiStepLR {milestones: [3, -1]}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.milestones.1", "found -1; allowed: whole number from 0",
    ),
    "MultiStepLR {milestones: 3}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.milestones", "found 3; allowed: list",
    ),
    "exponential_decay {transition_steps: 1, decay_rate: 1, staircase: 1}": (
        "cfg.yaml:6: agent.learning_rate_scheduler_kwargs.staircase", "found 1; allowed: True or False",
    ),
    "StepLR [3]": ("cfg.yaml:6: agent.learning_rate_scheduler_kwargs", "found [3]; allowed: block of keys"),
    "KLAdaptiveLR {min_lr: 1}": ("cfg.yaml:6", "agent.learning_rate_scheduler_kwargs.min_lr 1.0 must not be above"),
    "StpLR {}": ("cfg.yaml:5: agent.learning_rate_scheduler", "found 'StpLR'; allowed: KLAdaptiveLR, linear, cosine"),
    "LambdaLR {}": ("cfg.yaml:5: agent.learning_rate_scheduler", "or null."),
    "[linear] {}": ("cfg.yaml:5: agent.learning_rate_scheduler", "found ['linear']; allowed: KLAdaptiveLR"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_schedules_and_arguments_are_refused_with_line_key_and_what_is_allowed(case: str, tmp_path: Path) -> None:
    name, arguments = case.split(" ", 1)
    path = tmp_path / "cfg.yaml"
    path.write_text(
        f"{HEAD}  learning_rate_scheduler: {name}\n  learning_rate_scheduler_kwargs: {arguments}\n"
        "trainer: {timesteps: 64}\n"
    )
    with pytest.raises(UserError) as caught:
        load_config(path)
    message = str(caught.value).replace(f"{tmp_path}/", "")
    where, what = REFUSED[case]
    assert f"{where}: " in message and what in message and "Input should" not in message


def test_a_misspelt_schedule_is_told_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean .*'StepLR'"):
        schedule("StpLR")
