"""The `search:` section and its flags, and the score of a setting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, TrialRow
from launcher.search.score import WORST, score, score_at
from launcher.search.settings import read_search
from runner.config.load import Key, Source, parse
from runner.errors import UserError
from runner.training.tracking import EVALUATION_MEAN, SCORE, Record

FILE = Source("cfg.yaml")


def test_flags_beat_the_file_and_defaults_are_written_out() -> None:
    search = read_search({"method": "random", "trials": 5, "asha": {"rungs": 2}}, {("method",): "asha"}, FILE)
    assert search.written() == {
        "method": "asha",
        "trials": 5,
        "seeds": 3,
        "metric": "auto",
        "budget": None,
        "seed": 0,
        "confirm": 10,
        "asha": {"reduction": 3, "rungs": 2},
    }
    assert read_search(None, {("pbt", "population"): 4, ("method",): "pbt"}, FILE).drawn == 4
    assert read_search({"method": "grid"}, {}, FILE).fresh_seeds == 0


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("metod: asha", {}, r"cfg.yaml:2: search.metod: unknown key. Did you mean 'method'\? Allowed here: asha, "),
        ("method: rndom", {}, r"cfg.yaml:2: search.method: found 'rndom'; .* Did you mean 'random'\?"),
        ("asha: {rung: 3}", {}, r"cfg.yaml:2: search.asha.rung: unknown key. Did you mean 'rungs'\?"),
        ("asha: 3", {}, r"cfg.yaml:2: search.asha: found 3; allowed: block of keys"),
        ("pbt: {truncation: 0.9}", {}, r"cfg.yaml:2: search.pbt.truncation: found 0.9; allowed: number above 0 to 0.5"),
        ("trials: 3", {("trials",): 0}, r"command line: --trials: found 0; allowed: whole number from 1 to"),
        ("pbt: {frequencies: [1, 0]}", {}, r"cfg.yaml:2: search.pbt.frequencies: found 0; allowed: .*whole number"),
        (
            "method: pbt",
            {("trials",): 4},
            r"command line: --trials 4: .* is pbt, which has no such number; allowed with --search random, tpe, asha",
        ),
        ("method: grid", {("trials",): 4}, r"command line: --trials 4: the search's method is grid"),
        ("method: tpe", {("pbt", "population"): 4}, r"command line: --population 4: .* allowed with --search pbt"),
        ("pbt: {frequencies: 2}", {}, r"cfg.yaml:2: search.pbt.frequencies: found 2; allowed: list"),
        ("seeds: many", {}, r"cfg.yaml:2: search.seeds: found 'many'; allowed: whole number from 1 "),
        ("metric: eval", {}, r"cfg.yaml:2: search.metric: found 'eval'; allowed: evaluation, return or auto \([^\n]*$"),
    ],
)
def test_mistakes_are_named(text: str, flags: dict[Key, Any], said: str) -> None:
    data, source = parse(f"search:\n  {text}\n", "cfg.yaml")
    with pytest.raises(UserError, match=f"^{said}"):
        read_search(data["search"], flags, source)


def test_search_that_is_no_block() -> None:
    with pytest.raises(UserError, match=r"search: found 'asha'; allowed: keys such as method: random"):
        read_search("asha", {}, FILE)  # type: ignore[arg-type]


def test_score_is_the_middle_of_seeds_and_a_lost_seed_is_the_worst() -> None:
    assert score([1.0, 2.0, 3.0, 100.0]) == 2.5
    assert score([1.0, None, 3.0]) == score([math.nan, 3.0, 1.0]) == WORST
    assert score([None, 2.0, 3.0, 4.0]) == 2.5  # the lowest quarter is cut off, as of any scores


def test_score_at_a_timestep(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials([TrialRow(f"a-{seed}", "a", seed, 4, 100) for seed in (1, 2)])
        number = ledger.open(["a-1", "a-2"], "t").number
        values = [{SCORE: 1.0}, {SCORE: 2.0, EVALUATION_MEAN: 5.0}, {SCORE: 3.0}]
        records = [Record(i, 10 * (i + 1), 40 * (i + 1), 1.0, v) for i, v in enumerate(values)]
        ledger.push(number, {"a-1": Batch(0, records), "a-2": Batch(0, records[:2])})
        seeds = ["a-1", "a-2"]
        assert score_at("return", ledger, seeds, 10) == 1.0
        assert score_at("return", ledger, seeds) == 2.5
        assert score_at("evaluation", ledger, seeds, 30) == 5.0
        assert score_at("evaluation", ledger, seeds, 10) == WORST
        ledger.close(number, "died")
        ledger.fail(["a-2"], "it died")
        assert score_at("return", ledger, seeds) == WORST
