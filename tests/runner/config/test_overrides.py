"""Ranges with a distribution: how they are written, and what is drawn from them."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config.overrides import Range, of_block, parse_override
from runner.errors import UserError

RATE, CLIP, EPOCHS = "agent.learning_rate", "agent.ratio_clip", "agent.learning_epochs"


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        (f"{RATE}=log:1e-5..1e-2", Range(1e-5, 1e-2, "log")),
        (f"{RATE}=1e-5..1e-2", Range(1e-5, 1e-2, "log")),  # as 1e-5..1e-2/4 has equal ratios
        (f"{RATE}=uniform:1e-5..1e-2", Range(1e-5, 1e-2, "uniform")),
        (f"{CLIP}=0.1..0.4", Range(0.1, 0.4, "uniform")),
        (f"{CLIP}=0..1", Range(0, 1, "uniform")),  # real, since the key takes real numbers
        (f"{EPOCHS}=2..8", Range(2, 8, "int")),
        (f"{EPOCHS}=int:2..8", Range(2, 8, "int")),
        ("agent.mini_batches=int-log:16..512", Range(16, 512, "int-log")),
        ("env.speed=1..4", Range(1, 4, "int")),
        ("env.speed=1.0..4", Range(1, 4, "uniform")),
        ("models.policy.network.0.layers.0=int-log:16..256", Range(16, 256, "int-log")),
    ],
)
def test_written(text: str, drawn: Range) -> None:
    assert parse_override(text, ranges=True)[1] == [drawn]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (f"{CLIP}=0..1/3", [0, 0.5, 1]),
        ("agent.experiment.directory=../runs", ["../runs"]),
        ("env.id=package:Env", ["package:Env"]),
        ("env.name=m:1..2", ["m:1..2"]),
        ("env.name='log:1..2'", ["log:1..2"]),
        (f"{CLIP}=0.1,0.2", [0.1, 0.2]),
    ],
)
def test_no_range(text: str, values: list[Any]) -> None:
    assert parse_override(text, ranges=True)[1] == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{RATE}=log:0..1", r"equal ratios \(log\) need ends above 0"),
        (f"{RATE}=lg:1..2", r"no distribution is named 'lg'. Did you mean 'log'\? Allowed: low..high"),
        (f"{RATE}=0.4..0.1", "the first end must be below the last"),
        (f"{RATE}=log:x..2", "a range needs a number at both ends"),
        (f"{RATE}=1..inf", "a range needs a number at both ends"),
        (f"{CLIP}=int:0.1..2", "int needs whole ends"),
        ("agent.class=1..2", "the key takes no numbers but PPO, RPO, A2C"),
        (f"{CLIP}=0.1..0.2,0.5", "a range needs a count"),
    ],
)
def test_wrong(text: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^command line: --set .*{said}"):
        parse_override(text, ranges=True)


def test_without_a_search_a_range_has_a_count() -> None:
    with pytest.raises(UserError, match="a range needs a count"):
        parse_override("trainer.timesteps=1..5")


@pytest.mark.parametrize(
    ("block", "found"),
    [
        ({"distribution": "log", "low": 1e-5, "high": 1e-2}, Range(1e-5, 1e-2, "log")),
        ({"distribution": "int", "low": 1, "high": 4}, Range(1, 4, "int")),
        ({"distribution": "choice", "values": [1, 2]}, [1, 2]),
        ({"low": 1}, None),
    ],
)
def test_block(block: dict[str, Any], found: Any) -> None:
    assert of_block(block, ("agent", "learning_rate")) == found


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"distribution": "logg"}, r"distribution: found 'logg'; allowed: .*Did you mean 'log'\?"),
        ({"distribution": "log", "lo": 1, "high": 2}, r"lo: unknown key. Did you mean 'low'\?"),
        ({"distribution": "log", "low": 1}, "high: required"),
        ({"distribution": "choice", "values": 3}, "values: found 3; allowed: a list"),
        ({"distribution": "log", "low": True, "high": 2}, "a number at both ends"),
    ],
)
def test_wrong_block(block: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        of_block(block, ("agent", "learning_rate"))


def test_drawn() -> None:
    log, whole = Range(1e-4, 1e-2, "log"), Range(1, 3, "int")
    assert [log.at(share) for share in (0, 0.5, 1)] == [1e-4, 1e-3, 1e-2]
    assert [whole.at(share) for share in (0, 0.32, 0.34, 0.66, 0.67, 1)] == [1, 1, 2, 2, 3, 3]  # equally likely
    assert Range(16, 512, "int-log").at(0.5) == 89
    assert Range(0.1, 0.4, "uniform").at(1 / 3) == 0.2
