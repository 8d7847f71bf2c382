"""Selection and perturbation of a population, as a function of scores."""

from __future__ import annotations

import math

import pytest

from launcher.search.pbt import Rules, Span, exploit, hyper_names

RATE = Span(("learning_rate", "value_learning_rate"), 1e-5, 1e-2, log=True)
CLIP = Span(("ratio_clip",), 0.1, 0.4)
RULES = Rules((RATE, CLIP), 0.25, 1.25, 0.0, seed=3)
NUMBERS = {"learning_rate": 1e-3, "value_learning_rate": 1e-3, "ratio_clip": 0.2, "alpha": 0.5}


def hypers(size: int) -> list[dict[str, float]]:
    return [{**NUMBERS, "ratio_clip": 0.2 + member / 1000} for member in range(size)]


def test_the_worst_quarter_goes_on_as_the_best_with_numbers_nearby() -> None:
    scores = [float(member) for member in range(16)]
    sources, changed = exploit(scores, hypers(16), RULES, 1)
    assert sources[4:] == list(range(4, 16)) and changed[4:] == hypers(16)[4:]
    assert set(sources[:4]) <= {12, 13, 14, 15}
    for member in range(4):
        source = hypers(16)[sources[member]]
        assert changed[member]["learning_rate"] in (pytest.approx(1.25e-3), pytest.approx(0.8e-3))
        assert changed[member]["value_learning_rate"] == changed[member]["learning_rate"]
        assert changed[member]["ratio_clip"] / source["ratio_clip"] in (pytest.approx(1.25), pytest.approx(0.8))
        assert changed[member]["alpha"] == 0.5


def test_decisions_follow_from_seed_round_and_member_alone() -> None:
    scores = [float(member % 5) for member in range(16)]
    assert exploit(scores, hypers(16), RULES, 4) == exploit(list(scores), hypers(16), RULES, 4)
    rounds = [exploit(scores, hypers(16), RULES, number) for number in range(8)]
    assert len({tuple(sources) for sources, _ in rounds}) > 1


def test_of_equal_scores_the_first_is_the_better() -> None:
    sources, _ = exploit([1.0] * 4, hypers(4), RULES, 0)
    assert sources == [0, 1, 2, 0]


@pytest.mark.parametrize(("scores", "copied"), [([-math.inf] * 4, []), ([-math.inf, -3.0, -math.inf, -math.inf], [3])])
def test_what_failed_is_the_worst_and_nobodys_source(scores: list[float], copied: list[int]) -> None:
    sources, _ = exploit(scores, hypers(4), RULES, 0)
    assert [member for member in range(4) if sources[member] != member] == copied
    assert all(sources[member] == 1 for member in copied)


def test_numbers_stay_in_their_range_and_may_be_drawn_anew() -> None:
    edge = [{**NUMBERS, "ratio_clip": 0.4, "learning_rate": 1e-2, "value_learning_rate": 1e-2}] * 4
    found = [exploit([3.0, 2.0, 1.0, 0.0], edge, RULES, number)[1][3] for number in range(20)]
    assert {round(one["ratio_clip"], 3) for one in found} == {0.4, 0.32}
    anew = Rules((RATE, CLIP), 0.25, 1.25, 1.0, seed=3)
    drawn = [exploit([3.0, 2.0, 1.0, 0.0], edge, anew, number)[1][3] for number in range(20)]
    assert len({one["ratio_clip"] for one in drawn}) == 20
    assert all(1e-5 <= one["learning_rate"] <= 1e-2 and 0.1 <= one["ratio_clip"] <= 0.4 for one in drawn)


def test_keys_name_hyper_numbers() -> None:
    assert hyper_names(("agent", "learning_rate")) == ("learning_rate", "value_learning_rate")
    assert hyper_names(("agent", "learning_rate_scheduler_kwargs", "kl_threshold")) == ("scheduler_kl_threshold",)
    assert hyper_names(("agent", "ratio_clip")) == ("ratio_clip",)
