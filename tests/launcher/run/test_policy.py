"""What is tried again, in which packs, how often and after which wait: the policy as a pure function."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.ledger.rows import Order
from launcher.plan.experiment import Trial
from launcher.run.policy import Decision, Failure, FailurePolicy, leaves, obeyed, together
from tests.runner.builders import make_config

CONFIG = make_config()
CRASH, NODE = Failure("crash", "segmentation fault"), Failure("node", "machine lost")


def trials(names: Iterable[str]) -> list[Trial]:
    return [Trial(name, "a", CONFIG) for name in names]


def ids(decision: Decision) -> tuple[list[str], list[str]]:
    """The packs to try again and the trials given up, a letter for each trial."""
    packs = ["".join(trial.id for trial in pack) for pack in decision.packs]
    return packs, [trial.id for trial in decision.failed]


def ended(policy: FailurePolicy, pack: str, failure: Failure = CRASH, at: int = 0, left: str | None = None) -> Decision:
    """An attempt at `pack`, from timestep `at` on, ends so with `left` unfinished (None: all)."""
    policy.opened(dict.fromkeys(pack, at))
    return policy.decide(trials(pack if left is None else left), failure)


def test_a_pack_is_tried_again_then_halved_then_its_members_fail_alone() -> None:
    policy = FailurePolicy()
    assert ids(ended(policy, "abc")) == (["abc"], [])
    assert ids(ended(policy, "abc")) == (["ab", "c"], [])
    assert ids(ended(policy, "ab")) == (["a", "b"], [])
    assert ids(ended(policy, "a")) == ([], ["a"])
    assert ids(ended(policy, "c")) == (["c"], [])
    assert ids(ended(policy, "c")) == ([], ["c"])


def test_a_pack_without_memory_is_halved_at_once_and_a_trial_alone_dies_of_it() -> None:
    policy, large = FailurePolicy(), Failure("crash", "CUDA out of memory", too_large=True)
    assert ids(ended(policy, "abcd", large)) == (["ab", "cd"], [])
    assert ids(ended(policy, "ab", large)) == (["a", "b"], []), "no death counts while smaller packs may fit"
    for _ in range(3):
        assert ids(ended(policy, "a", large)) == (["a"], [])
    assert ids(ended(policy, "a", large)) == ([], ["a"])


def test_only_the_trial_whose_environment_failed_counts_it_and_its_mates_go_on() -> None:
    policy = FailurePolicy()
    error = Failure("error", "the environment with seed 7 raised", trial="b")
    assert ids(ended(policy, "abc", error)) == (["ac", "b"], [])
    assert ids(ended(policy, "b", error)) == ([], ["b"])
    assert ids(ended(policy, "ac")) == (["ac"], []), "its first death"
    assert ids(ended(policy, "ac", error)) == (["a", "c"], []), "of another pack: whoever is blamed is not in it"


def test_a_trial_alone_fails_at_its_fourth_death() -> None:
    policy = FailurePolicy()
    decisions = [ended(policy, "a") for _ in range(4)]
    assert [ids(decision) for decision in decisions] == [(["a"], [])] * 3 + [([], ["a"])]


def test_deaths_are_waited_for_longer_and_longer() -> None:
    policy = FailurePolicy()
    assert [ended(policy, pack).wait for pack in ("abcdefgh", "abcdefgh", "abcd", "ab")] == [1.0, 4.0, 15.0, 15.0]
    assert ended(policy, "z").wait == 1.0, "the deaths of others do not count"


def test_a_halved_pack_keeps_its_order_and_all_its_members() -> None:
    for size in range(2, 33):
        policy, pack = FailurePolicy(), trials(f"t{i}" for i in range(size))
        policy.opened({trial.id: 0 for trial in pack})
        policy.decide(pack, CRASH)
        packs = policy.decide(pack, CRASH).packs
        assert [*packs[0], *packs[1]] == pack and 0 <= len(packs[0]) - len(packs[1]) <= 1


def test_members_that_are_over_are_not_tried_again() -> None:
    policy = FailurePolicy()
    assert ids(ended(policy, "abcd", left="bd")) == (["bd"], [])
    assert ids(ended(policy, "bd", left="d")) == (["d"], []), "alone, a second death is no reason to give up"
    assert ids(ended(policy, "d", left="")) == ([], [])


def test_the_mates_of_a_trial_that_kills_its_pack_are_tried_without_it() -> None:
    policy = FailurePolicy()
    ended(policy, "ab")
    assert ids(ended(policy, "ab")) == (["a", "b"], [])
    assert ids(ended(policy, "a", left="")) == ([], [])
    assert ids(ended(policy, "b")) == (["b"], []), "its first death alone"
    assert ids(ended(policy, "b")) == ([], ["b"])


def test_progress_resets_the_count() -> None:
    policy = FailurePolicy()
    for at in range(10):
        assert ids(ended(policy, "ab", at=at)) == (["ab"], []), "one death at each checkpoint"
    assert ids(ended(policy, "ab", at=9)) == (["a", "b"], [])
    assert ids(ended(policy, "a", at=10)) == (["a"], []), "alone, and further than before"
    assert not ended(policy, "b", at=9).failed
    assert ended(policy, "b", at=9).failed


def test_an_earlier_checkpoint_is_no_progress() -> None:
    policy = FailurePolicy()
    ended(policy, "a", at=20)
    ended(policy, "a", at=10)
    assert not ended(policy, "a", at=10).failed
    assert ended(policy, "a", at=10).failed


def test_a_lost_machine_never_counts() -> None:
    policy = FailurePolicy()
    for _ in range(20):
        decision = ended(policy, "ab", NODE)
        assert ids(decision) == (["ab"], [])
    assert ids(ended(policy, "ab")) == (["ab"], [])
    ended(policy, "ab", NODE)
    assert ids(ended(policy, "ab")) == (["a", "b"], [])


def test_what_is_refused_fails_at_once() -> None:
    policy = FailurePolicy()
    assert ids(ended(policy, "abc", Failure("refused", "no GPU"), left="ac")) == ([], ["a", "c"])


def test_the_same_exception_twice_at_one_place_fails() -> None:
    policy, error = FailurePolicy(), Failure("error", "ValueError: boo")
    assert ids(ended(policy, "ab", error)) == (["ab"], [])
    assert ids(ended(policy, "ab", error)) == ([], ["a", "b"])


def test_the_same_exception_after_progress_is_tried_again() -> None:
    policy, error = FailurePolicy(), Failure("error", "ValueError: boo")
    ended(policy, "a", error)
    assert ids(ended(policy, "a", error, at=10)) == (["a"], [])
    assert ids(ended(policy, "a", error, at=10)) == ([], ["a"])


def test_different_exceptions_count_as_deaths() -> None:
    policy = FailurePolicy()
    errors = [Failure("error", f"ValueError: {i}") for i in range(4)]
    assert [ids(ended(policy, "ab", error))[0] for error in errors[:2]] == [["ab"], ["a", "b"]]
    assert ids(ended(policy, "a", errors[2])) == (["a"], [])
    assert ids(ended(policy, "a", errors[3])) == ([], ["a"])


def test_the_words_of_a_crash_are_no_exception() -> None:
    policy = FailurePolicy()
    ended(policy, "ab", Failure("crash", "the same words"))
    assert ids(ended(policy, "ab", Failure("crash", "the same words"))) == (["a", "b"], [])


def test_an_exception_that_only_some_have_seen_before_is_no_repetition() -> None:
    policy, error = FailurePolicy(), Failure("error", "ValueError: boo")
    ended(policy, "a", error)
    assert ids(ended(policy, "ab", error)) == (["a", "b"], [])


# Whole launches


def launch(names: list[str], deadly: Mapping[str, Failure]) -> tuple[set[str], set[str], int, Counter[str]]:
    """Train a pack whose `deadly` members end every attempt; who finished, who failed, attempts, attempts of each."""
    policy, waiting = FailurePolicy(), [trials(names)]
    finished: set[str] = set()
    failed: set[str] = set()
    count, of_each = 0, Counter[str]()
    while waiting:
        pack = waiting.pop(0)
        count += 1
        assert count <= 1000
        of_each.update(trial.id for trial in pack)
        policy.opened({trial.id: 0 for trial in pack})
        culprit = next((trial.id for trial in pack if trial.id in deadly), None)
        if culprit is None:
            finished |= {trial.id for trial in pack}
            continue
        decision = policy.decide(pack, deadly[culprit])
        kept = [trial for part in decision.packs for trial in part]
        assert sorted(t.id for t in (*kept, *decision.failed)) == sorted(t.id for t in pack)
        waiting += decision.packs
        failed |= {trial.id for trial in decision.failed}
    return finished, failed, count, of_each


@st.composite
def packs(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    names = [f"t{i}" for i in range(draw(st.integers(1, 32)))]
    return names, draw(st.lists(st.sampled_from(names), unique=True))


@settings(max_examples=300, deadline=None)
@given(packs())
def test_all_healthy_trials_finish_and_all_deadly_ones_fail_after_few_attempts(
    pack: tuple[list[str], list[str]],
) -> None:
    names, deadly = pack
    finished, failed, count, of_each = launch(names, dict.fromkeys(deadly, CRASH))
    assert finished == set(names) - set(deadly) and failed == set(deadly)
    assert count <= 4 + 2 * len(deadly) * (math.log2(len(names)) + 2)
    assert max(of_each.values()) <= 4 + math.ceil(math.log2(len(names)))


@pytest.mark.parametrize("size", range(1, 9))
def test_every_choice_of_deadly_members(size: int) -> None:
    names = [f"t{i}" for i in range(size)]
    for chosen in itertools.product([False, True], repeat=size):
        deadly = {name for name, bad in zip(names, chosen, strict=True) if bad}
        finished, failed, _, of_each = launch(names, dict.fromkeys(deadly, CRASH))
        assert (finished, failed) == (set(names) - deadly, deadly)
        assert all(of_each[name] >= 4 for name in deadly), "nobody is given up before it died four times"


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_a_healthy_pack_has_one_attempt(size: int) -> None:
    names = [f"t{i}" for i in range(size)]
    assert launch(names, {})[:3] == (set(names), set(), 1)


# Orders, and who trains together


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
