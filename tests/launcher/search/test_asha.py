"""Successive halving: its decisions for every order in which settings may arrive."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher.ledger.rows import Event
from launcher.search.asha import BEGIN, SCORE, Bracket, decide, rungs_of
from runner.config import load_config
from tests.benchmarks.search import Curves, at_random, halving, played

Step = tuple[str, str, int, float | None]


def bracket(steps: Sequence[Step], rungs: int = 4) -> Bracket:
    """The bracket after these steps: kind, setting, rung, score."""
    events = [
        Event(number, kind, f"{name}@{rung}", {"setting": name, "rung": rung, "score": score})
        for number, (kind, name, rung, score) in enumerate(steps)
    ]
    return Bracket.of(events, rungs)


def arrived(scores: dict[str, float | None], rung: int = 0) -> list[Step]:
    """Settings that have begun a rung and got there, in this order."""
    return [(BEGIN, name, rung, None) for name in scores] + [
        (SCORE, *item) for item in ((n, rung, s) for n, s in scores.items())
    ]


def search(
    values: dict[str, float | None], signatures: dict[str, str], workers: int, order: random.Random, rungs: int = 4
) -> tuple[list[Step], list[tuple[list[str], int]]]:
    """A whole search of settings with these scores, on workers that end in any order; its steps and decisions."""
    steps: list[Step] = []
    decisions = []
    running: list[tuple[list[str], int]] = []
    while True:
        while len(running) < workers:
            decided = decide(bracket(steps, rungs), signatures, 3, 10, workers)
            # Whoever asks again, from what is written alone, decides the same.
            assert decided == decide(bracket(list(steps), rungs), signatures, 3, 10, workers)
            if decided is None:
                break
            decisions.append(decided)
            running.append(decided)
            steps += [(BEGIN, name, decided[1], None) for name in decided[0]]
        if not running:
            return steps, decisions
        names, rung = running.pop(order.randrange(len(running)))
        steps += [(SCORE, name, rung, values[name]) for name in names]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_search_promotes_thirds_and_finds_the_best(workers: int, seed: int) -> None:
    order = random.Random(seed)
    values: dict[str, float | None] = {f"s{i}": order.random() for i in range(81)}
    signatures = {name: "one" if i % 3 else "other" for i, name in enumerate(values)}
    steps, decisions = search(values, signatures, workers, order)
    end = bracket(steps)
    assert end.in_flight() == []
    assert len(end.scores[0]) == 81
    for rung in range(3):
        # Asynchronously a few more get on than the best third at the end, never fewer.
        assert len(end.scores[rung + 1]) >= len(end.scores[rung]) // 3
        assert set(end.promotable(rung, 3)) == set()
    best = max(values, key=lambda name: values[name] or 0)
    assert best in end.scores[3]
    for names, rung in decisions:
        assert len({signatures[name] for name in names}) == 1 and len(names) <= 10
        assert rung == 0 or all(name in end.scores[rung - 1] for name in names)
    begun = [(name, rung) for names, rung in decisions for name in names]
    assert len(begun) == len(set(begun))


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_search_that_is_cut_anywhere_goes_on_the_same(cut: int) -> None:
    values: dict[str, float | None] = {f"s{i}": float(i * 7 % 20) for i in range(20)}
    steps, _ = search(values, dict.fromkeys(values, "one"), 2, random.Random(1))
    before = bracket(steps[:cut])
    again = bracket(steps[:cut])
    assert before == again
    left = before.in_flight()
    begun = {(name, rung) for kind, name, rung, _ in steps[:cut] if kind == BEGIN}
    scored = {(name, rung) for kind, name, rung, _ in steps[:cut] if kind == SCORE}
    assert set(left) == begun - scored


def test_the_highest_rung_comes_before_lower_ones_and_new_settings() -> None:
    low = arrived({"a": 3.0, "b": 2.0, "c": 1.0})
    assert decide(bracket(low), dict.fromkeys("abcd", "x"), 3, 10, 1) == (["a"], 1)
    high = [*low, (BEGIN, "d", 0, None), *arrived({"a": 3.0, "b": 2.0, "c": 2.5}, rung=1), (SCORE, "d", 0, 9.0)]
    assert decide(bracket(high), dict.fromkeys("abcde", "x"), 3, 10, 1) == (["a"], 2)


def test_of_equal_scores_the_first_that_came_goes_on() -> None:
    assert bracket(arrived({"b": 1.0, "a": 1.0, "c": 1.0})).promotable(0, 3) == ["b"]


def test_what_failed_counts_as_worst_and_never_goes_on() -> None:
    end = bracket(arrived({"a": None, "b": -5.0, "c": None}))
    assert end.promotable(0, 3) == ["b"]
    lost = bracket(arrived({"a": None, "b": None, "c": None}))
    assert lost.promotable(0, 3) == [] and lost.last_hope() is None
    assert decide(lost, dict.fromkeys("abc", "x"), 3, 10, 1) is None


def test_where_nothing_else_goes_on_the_best_does_so_that_there_is_a_winner() -> None:
    names = dict.fromkeys("ab", "x")
    two = arrived({"a": 1.0, "b": 2.0})
    assert decide(bracket(two), names, 3, 10, 1) == (["b"], 1)
    assert decide(bracket([*two, (BEGIN, "b", 1, None)]), names, 3, 10, 1) is None
    lost = [*two, *arrived({"b": None}, rung=1)]
    assert decide(bracket(lost), names, 3, 10, 1) == (["a"], 1)


def test_new_settings_are_shared_out_among_workers_and_packs_are_of_one_signature() -> None:
    signatures = {name: "x" if name in "abcde" else "y" for name in "abfcdeg"}
    assert decide(bracket([]), signatures, 3, 10, 2) == (["a", "b", "c"], 0)
    assert decide(bracket([]), signatures, 3, 2, 1) == (["a", "b"], 0)
    alike, begun = dict.fromkeys("abcdefg", "x"), [(BEGIN, name, 0, None) for name in "abcd"]
    assert decide(bracket(begun), alike, 3, 10, 2) == (["e", "f", "g"], 0)  # not the half of three
    begun = [(BEGIN, name, 0, None) for name in "abcde"]
    assert decide(bracket(begun), signatures, 3, 10, 1) == (["f", "g"], 0)


def test_a_setting_with_no_finite_score_is_read_as_such() -> None:
    assert bracket(arrived({"a": None})).scores[0] == {"a": -math.inf}


def test_a_replay_counts_what_workers_do_until_a_setting_is_trained_whole() -> None:
    settings = {
        name: Curves("x", (best,) * 4, (1, 3, 9, 27), 0.0) for name, best in (("a", 0.0), ("b", 9.0), ("c", 5.0))
    }
    assert played(settings, at_random(settings, 1, 1), 1, 9.0) == 27 + 27
    assert played(settings, at_random(settings, 2, 1), 2, 9.0) == 27 + 27  # side by side
    # All to the lowest rung, and the best of them alone to the end.
    assert played(settings, halving(settings, 1, 3), 1, 9.0) == 3 + 2 + 6 + 18
    assert played(settings, halving(settings, 1, 3), 1, 10.0) == math.inf


@pytest.mark.parametrize(
    ("timesteps", "rollouts", "expected"),
    [(2700, 1, (100, 300, 900, 2700)), (1024, 16, (32, 112, 336, 1024)), (40, 16, (16, 16, 16, 32))],
)
def test_rungs_are_whole_updates(timesteps: int, rollouts: int, expected: tuple[int, ...]) -> None:
    overrides = [(("trainer", "timesteps"), timesteps), (("agent", "rollouts"), rollouts)]
    config = load_config(Path(__file__).parents[3] / "configs" / "classic" / "cartpole.yaml", overrides)[0]
    assert rungs_of(config, 3, 4) == expected
