"""Selection and perturbation of a population, as a function of scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launcher.ledger.rows import Event
from launcher.search import begin
from launcher.search.pbt import EXPLOIT, Rules, Span, exploit, schedule_of, scheduled, spans_of
from runner.config import load_config
from runner.config.overrides import Range
from runner.errors import UserError
from runner.training.pack import changes_of, hyper_of
from tests.launcher.refusals import CARTPOLE

SKRL = CARTPOLE.parents[1] / "skrl" / "ppo.yaml"

RATE = Span(("learning_rate", "value_learning_rate"), Range(1e-5, 1e-2, "log"))
CLIP = Span(("ratio_clip",), Range(0.1, 0.4, "uniform"))
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


def test_each_subpopulation_is_selected_at_its_own_frequency_and_takes_the_best_of_others() -> None:
    # Members 0, 2, 4, 6 are compared at every boundary, 1, 3, 5, 7 at every second one.
    rules = replace(RULES, frequencies=(1, 2))
    scores = [4.0, 9.0, 3.0, 1.0, 2.0, 0.5, 1.0, 0.0]
    sources, changed = exploit(scores, hypers(8), rules, 0)
    assert sources == [0, 1, 2, 3, 1, 5, 0, 7], "the last copies its own best, the one above it the best of the others"
    assert changed[4] == hypers(8)[1], "who is compared less often brings its numbers along"
    assert changed[6]["ratio_clip"] in (pytest.approx(0.25), pytest.approx(0.16))
    sources, changed = exploit(scores, hypers(8), rules, 1)
    assert sources == [0, 1, 2, 3, 1, 0, 0, 1]
    assert changed[5] == hypers(8)[1], "of who is compared more often it takes all but the numbers"
    assert exploit(scores, hypers(8), replace(RULES, frequencies=(3, 2)), 0)[0] == list(range(8))


def test_no_member_is_a_source_and_a_copy_at_once_and_no_worse_one_comes() -> None:
    rng = np.random.default_rng(0)
    for number in range(200):
        scores = list(rng.choice([-math.inf, -1.0, 0.0, 1.0, 2.0, 3.0], 13))
        rules = replace(RULES, truncation=0.5 * (1 - rng.random()), frequencies=tuple(rng.integers(1, 4, 3)))
        sources, _ = exploit(scores, hypers(13), rules, number)
        copies = {member for member in range(13) if sources[member] != member}
        assert not copies & {sources[member] for member in copies}
        assert all(scores[sources[member]] >= scores[member] for member in copies)
        assert all(math.isfinite(scores[sources[member]]) for member in copies)


def test_numbers_stay_in_their_range_and_may_be_drawn_anew() -> None:
    edge = [{**NUMBERS, "ratio_clip": 0.4, "learning_rate": 1e-2, "value_learning_rate": 1e-2}] * 4
    found = [exploit([3.0, 2.0, 1.0, 0.0], edge, RULES, number)[1][3] for number in range(20)]
    assert {round(one["ratio_clip"], 3) for one in found} == {0.4, 0.32}
    anew = Rules((RATE, CLIP), 0.25, 1.25, 1.0, seed=3)
    drawn = [exploit([3.0, 2.0, 1.0, 0.0], edge, anew, number)[1][3] for number in range(20)]
    assert len({one["ratio_clip"] for one in drawn}) == 20
    assert all(1e-5 <= one["learning_rate"] <= 1e-2 and 0.1 <= one["ratio_clip"] <= 0.4 for one in drawn)


def ranges(*sets: str, file: Path = CARTPOLE) -> dict[str, tuple[str, ...]]:
    """The Hyper numbers that are perturbed for each key."""
    begun = begin.read([file], sets, {}, None, None, {("method",): "pbt", ("pbt", "population"): 2})[1]
    assert begun is not None
    spans = spans_of(begun.record, begun.settings[0].values)
    return {name: span.names for name, span in spans.items() if span is not None}


def test_keys_are_the_hyper_numbers_that_they_set(tmp_path: Path) -> None:
    kl = "agent.learning_rate_scheduler_kwargs.kl_threshold"
    sets = ("agent.learning_rate=log:1e-5..1e-2", "agent.learning_rate_scheduler=KLAdaptiveLR", f"{kl}=0.001..0.1")
    found = ranges(*sets, "agent.gae_lambda=0.9..0.99")
    assert found["agent.learning_rate"] == ("learning_rate", "value_learning_rate")
    assert found[kl] == ("scheduler_kl_threshold",)
    assert found["agent.gae_lambda"] == ("gae_lambda",)
    # In a file of an older skrl, under its name there.
    assert ranges("agent.lambda=0.9..0.99", "env.id=Pendulum-v1", "env.num_envs=4", file=SKRL) == {
        "agent.lambda": ("gae_lambda",)
    }
    both = tmp_path / "both.yaml"
    both.write_text(CARTPOLE.read_text().replace("learning_rate: 1.0e-3", "learning_rate: [1.0e-3, 2.0e-3]"))
    assert ranges("agent.learning_rate.1=log:1e-5..1e-2", file=both) == {
        "agent.learning_rate.1": ("value_learning_rate",)
    }


def test_a_range_that_no_member_has_for_itself_is_refused_and_alternatives_are_said() -> None:
    said = r"command line: --set agent.learning_epochs=2..8: agent.learning_epochs is no number that each member"
    with pytest.raises(UserError, match=said):
        ranges("agent.learning_epochs=2..8")
    with pytest.raises(UserError, match=r"agent\.changes: pbt finds changes of its own"):
        ranges("agent.gae_lambda=0.9..0.99", "agent.changes=[{at: 64, ratio_clip: 0.1}]")
    flags = {("method",): "pbt", ("pbt", "population"): 2}
    experiment, _ = begin.read(
        [CARTPOLE], ["agent.ratio_clip=0.1,0.2", "agent.gae_lambda=0.9..0.99"], {}, None, None, flags
    )
    assert "agent.ratio_clip: a member keeps what it begins with; only ranges are perturbed" in experiment.notes


def test_members_have_a_seed_each_unless_seeds_are_asked_for() -> None:
    flags = {("method",): "pbt", ("pbt", "population"): 3}
    experiment, begun = begin.read([CARTPOLE], ["agent.gae_lambda=0.9..0.99"], {}, None, None, flags)
    assert begun is not None
    assert [trial.config.seed for trial in experiment.trials] == [0, 1, 2]
    assert begun.record.own_seeds and begun.record.fresh_seeds[0] == 3
    assert "3 settings x a seed of its own" in begun.described(experiment.trials)[0]
    experiment, begun = begin.read([CARTPOLE], ["agent.gae_lambda=0.9..0.99"], {}, "2", None, flags)
    assert begun is not None and not begun.record.own_seeds
    assert [trial.config.seed for trial in experiment.trials] == [0, 1] * 3


def test_the_schedule_of_a_member_is_that_of_all_it_descends_from() -> None:
    def happened(number: int, **copies: tuple[str, float]) -> Event:
        data = {
            n: {"source": s, "hyper": {**NUMBERS, "ratio_clip": clip}, "rate": 1.0} for n, (s, clip) in copies.items()
        }
        return Event(number, EXPLOIT, str(number), {"timestep": 64 * (number + 1), "scores": {}, "copies": data})

    rounds = [happened(0, b=("a", 0.1)), happened(1, a=("b", 0.3)), happened(2, b=("c", 0.4))]
    assert schedule_of("c", rounds) == ("c", [])
    root, changes = schedule_of("a", rounds)
    assert (root, [(at, numbers["ratio_clip"]) for at, numbers in changes]) == ("a", [(64, 0.1), (128, 0.3)])
    config = load_config(CARTPOLE)[0]
    own = hyper_of(config)
    trained = scheduled(config, [(64, {**own, "ratio_clip": 0.1}), (128, own), (192, {**own, "learning_rate": 5e-4})])
    written = trained.dump()["agent"]["changes"]
    assert written[:2] == [{"at": 64, "ratio_clip": 0.1}, {"at": 128, "ratio_clip": own["ratio_clip"]}]
    assert written[2] == {"at": 192, "learning_rate": [5e-4, own["value_learning_rate"]]}
    assert [numbers for _, numbers in changes_of(trained)] == [
        {**own, "ratio_clip": 0.1},
        own,
        {**own, "learning_rate": 5e-4},
    ]
