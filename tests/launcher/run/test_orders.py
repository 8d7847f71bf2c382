"""What is decided of packs and their trials while they train, as pure functions."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from launcher.ledger.rows import Order
from launcher.plan.experiment import Trial
from launcher.run.orders import leaves, obeyed, together
from tests.runner.builders import make_config


def test_no_order_is_taken_back() -> None:
    for orders in itertools.permutations(get_args(Order)):
        held: Order = "go"
        for order in orders:
            held = obeyed(held, order)
        assert held == "lost"
    assert obeyed("stop", "go") == obeyed("go", "stop") == "stop"


@pytest.mark.parametrize(
    ("orders", "over", "expected"),
    [
        ({"a": "go", "b": "go"}, "", False),
        ({"a": "stop", "b": "stop"}, "", True),
        ({"a": "lost", "b": "lost"}, "", True),
        ({"a": "lost", "b": "stop"}, "", True),
        ({"a": "lost", "b": "go"}, "", False),
        ({"a": "go", "b": "lost"}, "a", True),
        ({"a": "go", "b": "go"}, "a", False),
        ({"a": "go", "b": "go"}, "ab", True),
    ],
)
def test_a_pack_leaves_when_none_of_its_trials_is_to_go_on(orders: dict[str, Order], over: str, expected: bool) -> None:
    assert leaves(orders, set(over)) is expected


def test_trials_train_together_that_begin_at_one_timestep() -> None:
    config = make_config()
    pack = [Trial(name, "x", config) for name in "abcd"]
    assert together(pack, dict.fromkeys("abcd", 64)) == [pack]
    begins = {"a": 64, "b": 0, "c": 64, "d": 32}
    assert ["".join(trial.id for trial in group) for group in together(pack, begins)] == ["ac", "b", "d"]
