"""How trials stand in any room: what is shown, and that nothing is wider or taller than there is room for."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from launcher.ledger.rows import Progress, TrialRow
from launcher.watch.layout import by_configuration, layout, most_telling, totals
from launcher.watch.names import abbreviated, briefest, unshared
from launcher.watch.tables import Column, table

STATES = ("pending", "running", "finished", "diverged", "failed", "interrupted")
SWEEP = [
    f"halfcheetah_learning_rate={rate}_ratio_clip={clip}_value_loss={loss}"
    for rate, clip, loss in itertools.product(("0.0001", "0.0003", "0.001"), (0.1, 0.2), ("skrl", "max"))
]


def row(config: str, seed: int, state: str = "running", value: float | None = -150.25, steps: int = 32_000) -> Progress:
    trial = TrialRow(f"{config}_s{seed}_0123abcd", config, seed, 64, 1000, state)
    return Progress(trial, 1, steps // 64, steps, value, 1600.0, "training")


def trials(configs: list[str], seeds: int) -> list[Progress]:
    return [row(config, seed) for config in configs for seed in range(seeds)]


def lines(shown: Table, width: int) -> list[str]:
    file = io.StringIO()
    Console(width=width, file=file).print(shown)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def screen(rows: list[Progress], width: int, height: int) -> list[str]:
    return lines(layout(rows, width, height), width)


# In the sizes that terminals have


def test_trials_that_fit() -> None:
    shown = screen(trials([f"cartpole_learning_rate={rate}" for rate in ("0.001", "0.01")], 2), 100, 6)
    assert shown == [
        "config cartpole_…    seed  state       env steps  done  steps/s   return  time left",
        "learning_rate=0.001     0  running        32,000   50%    1,600  -150.25       0:20",
        "learning_rate=0.001     1  running        32,000   50%    1,600  -150.25       0:20",
        "learning_rate=0.01      0  running        32,000   50%    1,600  -150.25       0:20",
        "learning_rate=0.01      1  running        32,000   50%    1,600  -150.25       0:20",
        "4 trials                   0 finished    128,000   50%    6,400        -       0:20",
    ]


def test_configurations_where_trials_do_not_fit() -> None:
    rows = trials(["cartpole_learning_rate=0.001", "cartpole_learning_rate=0.01"], 12)
    rows[3] = row(rows[3].trial.config, 3, "failed", -100.0)
    assert screen(rows, 80, 24) == [
        "config cartpole_…    seeds  state      done  steps/s   return  spread  time left",
        "learning_rate=0.001     12  1 failed…   50%   17,600  -146.06   14.51       0:20",
        "learning_rate=0.01      12  running     50%   19,200  -150.25    0.00       0:20",
        "24 trials               24  0 finish…   50%   36,800        -       -       0:20",
    ]


def test_the_most_telling_where_configurations_do_not_fit() -> None:
    rows = [row(name, seed, "pending", None, 0) for name in SWEEP for seed in range(3)]
    rows[30] = row(SWEEP[10], 0, "diverged")
    rows[15] = row(SWEEP[5], 0)
    shown = [line.split() for line in screen(rows, 60, 5)]
    assert [line[0] for line in shown[1:3]] == ["lr=0.001_rc=0.2_vl=skrl", "lr=0.0003_rc=0.1_vl=max"]
    assert [line[:3] for line in shown[3:]] == [["…", "10", "more"], ["36", "trials", "0"]]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_names_stay_and_differ(width: int) -> None:
    shown = screen(trials(SWEEP, 3), width, 20)
    names = [line.split()[0] for line in shown[1:-1]]
    assert len(set(names)) == len(SWEEP) and "halfcheetah_…" in shown[0]
    for name, whole in zip(names, SWEEP, strict=True):
        assert [part.split("=")[1] for part in name.split("_") if "=" in part][-1] == whole.split("=")[-1]


def test_where_nothing_runs_the_time_left_is_the_first_to_go() -> None:
    rows = [row("cartpole", seed, "finished") for seed in range(3)]
    assert screen(rows, 200, 9)[0].endswith("time left")
    assert screen(rows, 40, 9)[0].split() == ["config", "seed", "state", "return"]


def test_one_seed_each_is_one_trial_each() -> None:
    assert screen(trials(SWEEP, 1), 120, 8)[0].split()[2:4] == ["seed", "state"]


def test_the_number_of_attempts_is_a_sum() -> None:
    rows = trials(["a", "b"], 3)
    attempts = {one.trial.id: 2 for one in rows}
    shown = [line.split() for line in lines(layout(rows, 120, 5, attempts=attempts), 120)]
    assert shown[0][3] == "attempts" and [line[3] for line in shown[1:3]] == ["6", "6"]


def test_whole_names_are_broken_not_cut() -> None:
    shown = lines(layout(trials(SWEEP[:1], 1), 60, whole_names=True), 60)
    assert "".join(line.split()[0] for line in shown[1:-1]) == SWEEP[0]


def test_nothing_at_all() -> None:
    assert screen([], 80, 24)[-1].split() == ["0", "trials", "0", "finished", "0", "0%", "-", "-", "-"]


words = st.sampled_from(["cartpole", "a", "learning_rate=0.001", "ratio_clip=0.2", "hiddens=64-64", "skrl", "x" * 60])
configs = st.lists(words, min_size=1, max_size=4).map(lambda parts: "_".join(parts)[:80])
some_rows = st.builds(
    row,
    configs,
    st.integers(0, 10**9),
    st.sampled_from(STATES),
    st.none() | st.floats(-1e9, 1e9) | st.just(math.nan),
    st.integers(0, 64_000),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(some_rows, min_size=1, max_size=60), st.integers(26, 220), st.integers(1, 70))
def test_any_size(rows: list[Progress], width: int, height: int) -> None:
    shown = screen(rows, width, height)
    assert len(shown) <= height and max(map(len, shown)) <= width
    assert shown[-1].startswith(f"{len(rows)} trial")
    if any(one.trial.state == "running" for one in rows):
        assert shown[-1].endswith(totals(rows).rpartition(" ")[2])
        assert height == 1 or (shown[0].startswith("config") and shown[0].endswith("time left"))
    if height > 2:
        told = [line for line in shown[1:-1] if not line.startswith("…")]
        some = len(rows) if len(told) == len(rows) else len(by_configuration(rows))
        assert some == len(told) or shown[-2] == f"… {some - len(told)} more"


# Which tell most


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"finished": 2, "failed": 1}, {"finished": 2, "failed": 1}),
        ({"finished": 99, "running": 3, "failed": 4, "diverged": 2}, {"failed": 4, "diverged": 2, "running": 3}),
        ({"running": 99, "failed": 99}, {"failed": 5, "running": 5}),
        ({"finished": 99, "running": 2, "failed": 99}, {"failed": 8, "running": 2}),
        ({"pending": 99, "running": 99, "failed": 1}, {"failed": 1, "running": 9}),
    ],
)
def test_groups_that_tell_most(states: dict[str, int], expected: dict[str, int]) -> None:
    groups = [[row("a", 0, state)] for state, number in states.items() for _ in range(number)]
    told = [group[0].trial.state for group in most_telling(groups, 10)]
    wanted = [state for state, number in expected.items() for _ in range(number)]
    assert told == [*wanted, *["finished"] * (10 - len(wanted))] if len(groups) > 10 else told == wanted


# Names


@pytest.mark.parametrize(
    ("names", "shared", "rest"),
    [
        (["cartpole"], "", ["cartpole"]),
        (["a_b=1", "a_b=1"], "", ["a_b=1"]),
        (
            ["cartpole_learning_rate=1e-4", "cartpole_learning_rate=3e-4"],
            "cartpole_…",
            ["learning_rate=1e-4", "learning_rate=3e-4"],
        ),
        (
            ["my_ppo_policy.hiddens=64-64_gae_lambda=0.9", "my_ppo_policy.hiddens=32_gae_lambda=0.9"],
            "my_ppo_…_gae_lambda=0.9",
            ["policy.hiddens=64-64", "policy.hiddens=32"],
        ),
        (
            ["pong_value_loss=max_observation_statistics=first_epoch", "pong_value_loss=skrl_observation_statistics=x"],
            "pong_…",
            ["value_loss=max_observation_statistics=first_epoch", "value_loss=skrl_observation_statistics=x"],
        ),
        (["hopper_ppo", "walker_ppo"], "…_ppo", ["hopper", "walker"]),
        (["a", "a_2"], "", ["a", "a_2"]),
        (["env_frame_skip=2", "env_frame_skip=4"], "env_frame_…", ["skip=2", "skip=4"]),
    ],
)
def test_what_names_share(names: list[str], shared: str, rest: list[str]) -> None:
    assert unshared(names) == (shared, dict(zip(names, rest, strict=False)))


def test_names_shorten_step_by_step() -> None:
    name = "learning_rate=0.001_ratio_clip=0.2"
    assert abbreviated([name], 40) == [name]
    assert abbreviated([name], 32) == ["learning_r…=0.001_ratio_clip=0.2"]
    assert abbreviated([name], 20) == [briefest(name)] == ["lr=0.001_rc=0.2"]
    assert abbreviated([name, "cartpole"], 12) == ["lr=0.001_rc…", "cartpole"]
    assert abbreviated(["cartpole"], 5) == ["cart…"]


def test_names_of_one_table_are_shortened_alike() -> None:
    names = ["learning_rate=0.0003_gae_lambda=0.9", "learning_rate=0.0003_gae_lambda=0.95", "8 trials"]
    assert abbreviated(names, 27) == ["learni…=0.0003_gae_la…=0.9", "learni…=0.0003_gae_la…=0.95", "8 trials"]
    assert abbreviated(names, 24) == ["lr=0.0003_gl=0.9", "lr=0.0003_gl=0.95", "8 trials"]


@settings(max_examples=200, deadline=None)
@given(configs, st.integers(1, 90))
def test_short_names_are_short(name: str, width: int) -> None:
    assert len(abbreviated([name], width)[0]) <= width


# Tables


def test_columns_leave_by_rank() -> None:
    columns = [Column("name"), Column("least:", 3), Column("more:", 2), Column("most:", 1)]
    rows = [["x" * 30, "1,000", "2,000", "3,000"]]
    assert lines(table(columns, rows, 60), 60)[1].split() == ["x" * 30, "1,000", "2,000", "3,000"]
    assert lines(table(columns, rows, 31), 31)[0].split() == ["name", "more", "most"]
    assert lines(table(columns, rows, 24), 24)[0].split() == ["name", "most"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.text("ab \n", max_size=40), min_size=3, max_size=3), max_size=4), st.integers(12, 90))
def test_no_table_is_too_wide(rows: list[list[str]], width: int) -> None:
    assert max(map(len, lines(table(["first", "second", "third:"], rows, width), width))) <= width


def test_who_does_not_train_yet_has_no_speed_though_an_attempt_before_had_one() -> None:
    compiling = dataclasses.replace(row("cartpole", 0), note="compiling")
    assert totals([compiling]).endswith("0 steps/s, mean return -150.25, time left -")
    assert "1,600 steps/s" in totals([compiling, row("cartpole", 1)])
