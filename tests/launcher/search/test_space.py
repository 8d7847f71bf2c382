"""What a search begins with: its settings, a function of its seed, and the record that it goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.ledger.configurations import config_of, text_of
from launcher.plan.experiment import Experiment
from launcher.search import begin
from launcher.search.begin import Begun
from launcher.search.record import Record, affordable, env_steps_of_all
from launcher.search.settings import read_search
from runner.config.load import Source
from runner.config.overrides import parse_key
from runner.errors import UserError
from tests.launcher.refusals import CARTPOLE

RATE, CLIP = "agent.learning_rate=log:1e-5..1e-2", "agent.ratio_clip=0.1..0.4"
STEPS = 3072 * 32


def search(
    *sets: str, method: str = "random", file: Path = CARTPOLE, seeds: str | None = None, **flags: Any
) -> tuple[Experiment, Begun]:
    keys = {"population": ("pbt", "population")}
    given = {keys.get(name, (name,)): value for name, value in {"method": method, **flags}.items()}
    experiment, begun = begin.read([file], sets, {}, seeds, None, given)
    assert begun is not None
    return experiment, begun


def section(folder: Path, text: str) -> Path:
    path = folder / "cfg.yaml"
    path.write_text(text + CARTPOLE.read_text())
    return path


def test_settings_follow_from_the_seed_and_their_number() -> None:
    experiment, begun = search(RATE, CLIP, trials=5)
    assert [len(experiment.trials), len(begun.settings)] == [15, 5]
    assert {trial.config.seed for trial in experiment.trials} == {0, 1, 2}
    more = search(RATE, CLIP, "agent.gae_lambda=0.9", trials=7)[1].settings
    assert [setting.values for setting in more[:5]] == [setting.values for setting in begun.settings]
    other = search(RATE, CLIP, trials=5, seed=1)[1].settings
    assert not {setting.name for setting in other} & {setting.name for setting in begun.settings}
    assert all(1e-5 <= s.values["agent.learning_rate"] <= 1e-2 for s in more)
    assert begun.settings[0].name == "cartpole_learning_rate=0.000814489_ratio_clip=0.180936"


def test_a_record_makes_the_same_configurations_again(tmp_path: Path) -> None:
    file = section(tmp_path, "sweep:\n  agent.class: [PPO, RPO]\n  zip: {agent.rollouts: [16, 32], seed: 3..5/2}\n")
    file.write_text(file.read_text().replace(", seed: 3..5/2", ", agent.mini_batches: [2, 4]"))
    experiment, begun = search(RATE, "backend=torch", file=file, trials=6)
    record = Record.of_event(json.loads(json.dumps(begun.record.event[2])))
    assert record.event == begun.record.event
    for setting in begun.settings:
        chosen = [(parse_key(key) or (), value) for key, value in setting.values.items()]
        trained = next(trial.config for trial in experiment.trials if trial.name == setting.name)
        assert text_of(record.configure(chosen)) == text_of(trained)
    assert config_of(record.own, 0).agent.learning_rate == 1e-3
    assert config_of(record.own, 0).backend == "torch"
    assert record.fresh_seeds == list(range(3, 13))


def test_section_of_the_file(tmp_path: Path) -> None:
    lines = (
        "search: {method: random, trials: 3, seeds: 2, confirm: 0}\n"
        "sweep:\n  agent.learning_rate: log:1e-5..1e-2\n"
        "  agent.ratio_clip: {distribution: uniform, low: 0.1, high: 0.2}\n"
    )
    experiment, begun = begin.read([section(tmp_path, lines)], [], {}, None)
    assert begun is not None
    assert len(experiment.trials) == 6
    assert begun.record.fresh_seeds == []
    assert all(0.1 <= setting.values["agent.ratio_clip"] <= 0.2 for setting in begun.settings)


def test_seeds_of_the_command_line() -> None:
    experiment, begun = search(RATE, trials=1, seeds="7,9")
    assert [trial.config.seed for trial in experiment.trials] == [7, 9]
    assert (begun.record.search.seeds, begun.record.fresh_seeds[0]) == (2, 10)


def test_grid_with_a_confirmation() -> None:
    experiment, begun = search("agent.ratio_clip=0.1,0.2", method="grid", confirm=4)
    assert len(experiment.trials) == 6
    assert begun.record.fresh_seeds == [3, 4, 5, 6]


def test_tpe_and_pbt_begin_with_less_or_a_population() -> None:
    assert len(search(RATE, method="tpe", trials=64)[1].settings) == 10
    assert len(search(RATE, method="pbt", population=4)[1].settings) == 4


def test_small_space_is_exhausted() -> None:
    experiment, begun = search("agent.ratio_clip=0.1,0.2", "agent.learning_epochs=int:1..2", trials=9)
    assert (len(begun.settings), begun.record.search.trials) == (4, 4)
    assert "the space has 4 different settings, fewer than the 9 that are wanted" in experiment.notes[0]


def test_static_numbers_are_told() -> None:
    notes = search("agent.learning_epochs=2..4", RATE, trials=2)[0].notes
    said = "agent.learning_epochs is no number of a member: settings that differ there train in packs of their own"
    assert notes == (said,)
    assert search(RATE, trials=2)[0].notes == ()


def test_budget_is_for_so_many_settings() -> None:
    experiment, begun = search(RATE, trials=8, budget=7 * STEPS)
    assert len(begun.settings) == begun.record.search.trials == 2
    assert experiment.notes == ("search.budget is enough for 2 of 8 settings",)
    with pytest.raises(UserError, match=r"search.budget: found 5 env steps; 1 of these settings cost 294,912"):
        search(RATE, budget=5)
    assert search(RATE, method="tpe", trials=64, budget=60 * STEPS)[1].record.search.trials == 20


def test_env_steps_of_halving() -> None:
    asha = read_search({"method": "asha", "trials": 81}, {}, Source(""))
    # 81 settings to 1/27, 27 on to 1/9, 9 on to 1/3, 3 on to 1: 3 + 2 + 2 + 2 whole lengths.
    assert env_steps_of_all(asha, [2700] * 81) == 9 * 2700
    assert env_steps_of_all(read_search({"method": "random"}, {}, Source("")), [2700] * 81) == 81 * 2700
    assert env_steps_of_all(asha, [2700]) == 2700  # somebody gets to the end
    some = asha.model_copy(update={"budget": 2 * 2700})
    assert env_steps_of_all(some, [2700] * affordable(some, [2700] * 81)) <= 2 * 2700


@pytest.mark.parametrize(
    ("sets", "flags", "said"),
    [
        (
            (RATE,),
            {},
            r"command line: --set agent.learning_rate=log:1e-5..1e-2: log:1e-05..0.01 is a range that a search",
        ),
        ((RATE,), {("trials",): 3}, "flags of a search without a method; add --search, one of random, tpe, asha, pbt"),
        (("agent.ratio_clip=0.1",), {("method",): "random"}, "there is nothing to search"),
        (("seed=1,2",), {("method",): "random"}, "seeds are not searched"),
        ((RATE,), {("method",): "grid"}, "is a range that a search draws from"),
        ((RATE, "agent.learning_rate=1e-3"), {("method",): "random"}, "given twice"),
        (("agent.alpha=0.1..0.4",), {("method",): "random"}, "agent.alpha changes nothing"),
        ((RATE,), {("method",): "random", ("metric",): "evaluation"}, "evaluation.interval is 0"),
        (
            ("agent.discount_factor=0.5..1.5",),
            {("method",): "tpe"},
            "agent.discount_factor: found 1.5; allowed: number",
        ),
        (("agent.ratio_clip=..0.3",), {("method",): "random"}, "agent.ratio_clip: found '..0.3'; allowed: number"),
        (("agent.class=PPO,FOO,RPO",), {("method",): "tpe"}, "agent.class: found 'FOO'"),
        ((RATE,), {("method",): "asha", ("asha", "rungs"): 9}, "rungs: found 9; of 96 updates 5 rungs are different"),
        (
            (RATE, "evaluation.interval=4000"),
            {("method",): "asha"},
            "evaluation.interval is 4,000; allowed: 1 to 3,072",
        ),
        (
            (RATE,),
            {("method",): "pbt", ("pbt", "interval"): 3072},
            "pbt.interval: found 3,072; allowed: timesteps below",
        ),
        (
            (RATE,),
            {("method",): "pbt", ("pbt", "population"): 7, ("pbt", "frequencies"): [1, 2]},
            r"pbt.frequencies: found \[1, 2\], of 7 members; allowed: 4 members or more for each, 8 in all",
        ),
        (("agent.ratio_clip=0.2..0.2000000001",), {("method",): "pbt"}, "of a space with one setting"),
        ((RATE, "agent.rollouts=16,32"), {("method",): "pbt"}, "one value of agent.rollouts and of trainer.timesteps"),
        (
            (RATE, f"seed={2**63 - 4}"),
            {("method",): "random"},
            "seeds of the confirmation, which follow, are too large",
        ),
    ],
)
def test_refused(sets: tuple[str, ...], flags: dict[Any, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        begin.read([CARTPOLE], sets, {}, None, None, flags)


def test_a_short_training_has_fewer_rungs() -> None:
    experiment, begun = search(RATE, "trainer.timesteps=128", method="asha", trials=3)
    assert experiment.notes == (
        "of 4 updates 2 rungs are different ones with a reduction of 3, not 4: so many there are",
    )
    assert "Rungs:       32, 128 timesteps; the best 1/3 go on" in begun.described(experiment.trials)


def test_two_files_are_refused() -> None:
    with pytest.raises(UserError, match="a search is of one configuration file"):
        begin.read([CARTPOLE, CARTPOLE], [RATE], {}, None, None, {("method",): "random"})
