"""Ranges, settings in step, and the `sweep:` section of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli.main import main
from launcher.plan.experiment import Trial, form_packs
from runner.config import load_config, resolve
from runner.config.load import Key
from runner.config.overrides import LONGEST_RANGE, expand_range, parse_override
from runner.errors import UserError
from tests.launcher.builders import read_experiment
from tests.launcher.refusals import CARTPOLE

PPO = CARTPOLE.parents[1] / "skrl" / "ppo.yaml"


def trials(
    *settings: str,
    zips: list[list[str]] | None = None,
    files: tuple[Path, ...] = (CARTPOLE,),
    seeds: str | None = None,
) -> list[Trial]:
    return list(read_experiment(files, settings, {}, seeds, zips).trials)


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """A file that sweeps two numbers."""
    return with_section(tmp_path, "  agent.learning_rate: [1e-4, 3e-4]\n  agent.ratio_clip: 0.1..0.3/3\n")


def with_section(folder: Path, lines: str, preset: Path = CARTPOLE) -> Path:
    path = folder / "cfg.yaml"
    path.write_text(f"sweep:\n{lines}{preset.read_text()}")
    return path


def refusal(path: Path, *settings: str, zips: list[list[str]] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        trials(*settings, zips=zips, files=(path,))
    return str(caught.value).replace(f"{path.parent}/", "")


# Ranges


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-5..1e-2/4", [1e-5, 1e-4, 1e-3, 1e-2]),
        ("1e-2..1e-5/4", [1e-2, 1e-3, 1e-4, 1e-5]),
        ("1E0..1e4/5", [1.0, 10.0, 100.0, 1000.0, 10000.0]),
        ("0.001..1e-1/3", [1e-3, 1e-2, 1e-1]),
        ("1e-4..3e-4/2", [1e-4, 3e-4]),
        ("0..1/5", [0, 0.25, 0.5, 0.75, 1]),
        ("0..1/11", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("1..0/3", [1, 0.5, 0]),
        ("-1..1/3", [-1, 0, 1]),
        ("-.5...5/3", [-0.5, 0, 0.5]),
        (" 16..64/4 ", [16, 32, 48, 64]),
        ("1_000..2_000/3", [1000, 1500, 2000]),
        ("010..0x1E/03", [10, 20, 30]),
        ("1..0o11/3", [1, 5, 9]),
    ],
)
def test_range(text: str, values: list[float]) -> None:
    assert expand_range(text) == values


def test_ranges_of_whole_numbers_are_whole_where_their_steps_are() -> None:
    assert [type(value) for value in expand_range("16..64/4") or []] == [int] * 4
    assert [type(value) for value in expand_range("0..1/3") or []] == [float] * 3
    assert {t.config.agent.rollouts for t in trials("agent.rollouts=16..64/4")} == {16, 32, 48, 64}
    assert {t.config.agent.rollouts for t in trials("agent.rollouts=1e1..1e3/3")} == {10, 100, 1000}
    assert "agent.rollouts: found 22.85" in refusal(CARTPOLE, "agent.rollouts=16..64/8")


@pytest.mark.parametrize(
    "text",
    ["../4", "a..b/3", "..1/3", "1.5", "'1..2/3'", "[1..2/3]", "{a: 1..2/3}", "v1..v2/3", "nan..1/3", "0b1..2/3"],
)
def test_what_is_no_range(text: str) -> None:
    assert expand_range(text) is None


def test_a_range_that_is_quoted_is_a_text() -> None:
    assert parse_override("agent.experiment.directory='1..2/3'")[1] == ["1..2/3"]
    assert parse_override("agent.experiment.directory=../runs/4")[1] == ["../runs/4"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1..2", "needs a count, from 2 to 100,000"),
        ("1..2/", "needs a count"),
        ("1..2/1", "needs a count"),
        ("1..2/-3", "needs a count"),
        ("1..2/2.5", "needs a count"),
        ("1..2/3/4", "needs a count"),
        (f"1..2/{LONGEST_RANGE + 1}", "needs a count"),
        ("1../3", "needs a number at both ends"),
        ("1..x/3", "needs a number at both ends"),
        ("1..inf/3", "needs a number at both ends"),
        ("1...inf/3", "needs a number at both ends"),
        (".nan..1/3", "needs a number at both ends"),
        ("1..1e999/3", "needs a number at both ends"),
        ("0" * 5000 + "..1/3", "needs a number at both ends"),
        ("1..1/3", "the ends of a range must differ"),
        ("1e-3..0.001/3", "the ends of a range must differ"),
        ("0..1e-3/3", "equal ratios, and its ends must be above 0"),
        ("-1e-3..1e-2/3", "equal ratios, and its ends must be above 0"),
        ("1e-99999999999999999999..1/3", "equal ratios, and its ends must be above 0"),
    ],
)
def test_wrong_ranges(tmp_path: Path, text: str, wrong: str) -> None:
    said = refusal(CARTPOLE, f"agent.ratio_clip=0.1,{text}")
    assert said.startswith(f"command line: --set 'agent.ratio_clip=0.1,{text}': found {text[:100]!r}; ")
    assert wrong in said and "; allowed: first..last/count, such as 0..1/5 (equal steps) or 1e-5..1e-2/4" in said
    said = refusal(with_section(tmp_path, f"  agent.ratio_clip:\n  - 0.1\n  - {text}\n"))
    assert said.startswith(f"cfg.yaml:4: sweep.agent.ratio_clip.1: found {text[:100]!r}; ") and wrong in said


def test_ranges_and_lists_mix() -> None:
    found = trials("agent.entropy_loss_scale=0, 1e-5..1e-3/3 ,0.5")
    assert [t.config.agent.entropy_loss_scale for t in found] == [0, 1e-5, 1e-4, 1e-3, 0.5]
    assert [t.name.partition("=")[2] for t in found] == ["0", "1e-05", "0.0001", "0.001", "0.5"]


def test_a_product_that_is_too_large_is_refused_before_it_is_made() -> None:
    ranges = [f"agent.{key}=0..1/1000" for key in ("gae_lambda", "ratio_clip", "value_clip")]
    assert refusal(CARTPOLE, *ranges) == "command line: more than 100,000 trials; split the launch"


# In step


def test_zip_advances_in_step_and_multiplies_with_the_rest() -> None:
    found = trials(
        "agent.gae_lambda=0.9,1",
        zips=[
            ["agent.rollouts=16,32", "agent.mini_batches=2,4"],
            ["agent.ratio_clip=0.1..0.3/3", "agent.value_clip=0.3..0.1/3"],
        ],
    )
    agents = [t.config.agent for t in found]
    assert [(a.gae_lambda, a.rollouts, a.mini_batches, a.ratio_clip, a.value_clip) for a in agents] == [
        (gae, rollouts, rollouts // 8, ratio, value)
        for gae in (0.9, 1)
        for rollouts in (16, 32)
        for ratio, value in ((0.1, 0.3), (0.2, 0.2), (0.3, 0.1))
    ]
    assert found[0].name == "cartpole_gae_lambda=0.9_rollouts=16_mini_batches=2_ratio_clip=0.1_value_clip=0.3"


@pytest.mark.parametrize(
    ("zips", "expected"),
    [
        (
            [["agent.rollouts=16,32", "agent.mini_batches=2,4,8"]],
            "command line: --zip: agent.rollouts has 2 values and agent.mini_batches 3; allowed: lists of equal length",
        ),
        (
            [["agent.rollouts=16", "agent.mini_batches=2,4"]],
            "command line: --zip: agent.rollouts has 1 value and agent.mini_batches 2; allowed: ",
        ),
        ([["agent.rollouts=16,32", "x=1..2"]], "command line: --zip 'x=1..2': found '1..2'; a range needs a count"),
        ([["agent.rollouts=16,32", "x"]], "command line: --zip 'x': write key=value"),
        ([["agent.rollouts=16,32", "agent.rollouts=2,4"]], "command line: agent.rollouts: given twice, and one"),
        ([["agent.rollouts=16,32"], ["agent.rollouts=2,4"]], "command line: agent.rollouts: given twice, and one"),
        ([["agent.gae_lambda=0.9,1", "agent.ratio_clip=0.1,0.2"]], "command line: agent.gae_lambda: given twice"),
        ([], "command line: --zip requires arguments, such as agent.rollouts=16,32 agent.mini_batches=2,4"),
    ],
)
def test_wrong_zips(zips: list[list[str]], expected: str) -> None:
    assert refusal(CARTPOLE, "agent.lambda=0.5", zips=zips).startswith(expected)


# The section of a file


def test_section_is_a_product(swept: Path) -> None:
    found = trials(files=(swept,))
    assert [t.name for t in found] == [
        f"cfg_learning_rate={rate}_ratio_clip={clip}" for rate in (0.0001, 0.0003) for clip in (0.1, 0.2, 0.3)
    ]
    assert [(t.config.agent.learning_rate, t.config.agent.ratio_clip) for t in found] == [
        (rate, clip) for rate in (1e-4, 3e-4) for clip in (0.1, 0.2, 0.3)
    ]
    assert [len(pack) for pack in form_packs([(trial, 0) for trial in found], 1)] == [6]
    assert len({t.id for t in found}) == 6


def test_section_in_step(tmp_path: Path) -> None:
    one = "  zip: {agent.rollouts: [16, 32], agent.mini_batches: [2, 4]}\n"
    found = trials(files=(with_section(tmp_path, one),))
    assert [(t.config.agent.rollouts, t.config.agent.mini_batches) for t in found] == [(16, 2), (32, 4)]
    assert [len(pack) for pack in form_packs([(trial, 0) for trial in found], 1)] == [1, 1]
    two = """\
  zip:
    - {agent.rollouts: [16, 32], agent.mini_batches: [2, 4]}
    - agent.ratio_clip: 0.1..0.3/3
      agent.value_clip: [0.3, 0.2..0.1/2]
"""
    assert [t.name for t in trials(files=(with_section(tmp_path, two),))] == [
        f"cfg_rollouts={rollouts}_mini_batches={rollouts // 8}_ratio_clip={ratio}_value_clip={value}"
        for rollouts in (16, 32)
        for ratio, value in ((0.1, 0.3), (0.2, 0.2), (0.3, 0.1))
    ]


def test_section_equals_the_command_line(tmp_path: Path, swept: Path) -> None:
    plain = tmp_path / "plain" / "cfg.yaml"
    plain.parent.mkdir()
    plain.write_text(CARTPOLE.read_text())
    typed = trials("agent.learning_rate=1e-4,3e-4", "agent.ratio_clip=0.1..0.3/3", files=(plain,))
    assert typed == trials(files=(swept,))


def test_each_file_has_a_section_of_its_own(swept: Path) -> None:
    experiment = read_experiment([swept, CARTPOLE], ["agent.gae_lambda=0.9,1"], {}, "2")
    assert len(experiment.trials) == (6 + 1) * 2 * 2
    assert list(experiment.files.values()) == [swept] * 12 + [CARTPOLE] * 2


def test_lists_as_values_and_names_that_tell_keys_apart(tmp_path: Path) -> None:
    lines = "  models.policy.hiddens: [[64, 64], [32]]\n  models.value.hiddens: [[8], [16]]\n  agent.lambda: [0.9]\n"
    path = with_section(tmp_path, lines, PPO)
    found = trials("env.id=Pendulum-v1", "models.separate=True", files=(path,))
    assert [t.name for t in found] == [
        f"cfg_policy.hiddens={policy}_value.hiddens={value}" for policy in ("64-64", "32") for value in ("8", "16")
    ]
    policies = [t.config.models.policy.network[0].layers for t in found]
    assert policies == [[64, 64], [64, 64], [32], [32]]
    assert {t.config.agent.gae_lambda for t in found} == {0.9}


def test_names_of_entries_of_a_list() -> None:
    assert [t.name for t in trials("models.policy.network.0.layers.1=8,16")] == [
        "cartpole_layers.1=8",
        "cartpole_layers.1=16",
    ]


def test_values_of_one_anchor_are_not_one_value(tmp_path: Path) -> None:
    path = with_section(tmp_path, "  zip: {models.policy.hiddens: [&h [64, 64]], models.value.hiddens: [*h]}\n", PPO)
    (trial,) = trials("models.separate=True", "models.policy.hiddens.0=32", files=(path,))
    models = trial.config.models
    assert models.policy.network[0].layers == [32, 64] and models.value.network[0].layers == [64, 64]


def test_command_line_beats_the_section(swept: Path, tmp_path: Path) -> None:
    for setting in ("agent.ratio_clip=0.5", "agent={ratio_clip: 0.5, learning_rate: 0.1}"):
        found = trials(setting, files=(swept,))
        assert {t.config.agent.ratio_clip for t in found} == {0.5}
        assert len(found) == (2 if "{" not in setting else 1)
    assert len(trials("agent.learning_rate=1,2,3", "agent.ratio_clip=0.5", files=(swept,))) == 3
    assert len(trials(zips=[["agent.learning_rate=1,2", "agent.ratio_clip=0.5,0.6"]], files=(swept,))) == 2
    # Under another name, and one of those in step.
    path = with_section(tmp_path, "  zip: {agent.lambda: [0.5, 0.6], agent.ratio_clip: [0.1, 0.2]}\n")
    found = trials("agent.gae_lambda=0.9", files=(path,))
    assert [(t.config.agent.gae_lambda, t.config.agent.ratio_clip) for t in found] == [(0.9, 0.1), (0.9, 0.2)]
    flagged = read_experiment([with_section(tmp_path, "  env.num_envs: [4, 8]\n")], [], {("env", "num_envs"): 2}, None)
    assert [t.config.env.num_envs for t in flagged.trials] == [2]


def test_a_flag_and_a_sweep_of_one_key() -> None:
    with pytest.raises(UserError, match=r"^command line: env\.num_envs: given twice, and one of them is swept"):
        read_experiment([CARTPOLE], ["env.num_envs=4,8"], {("env", "num_envs"): 2}, None)


CONTRADICTIONS: list[tuple[list[str], dict[Key, Any], str | None, str]] = [
    (["agent.gae_lambda=0.5", "agent.lambda=0.6"], {}, None, "--set agent.gae_lambda=0.5 and --set agent.lambda=0.6"),
    (["env.id=A"], {("env", "id"): "B"}, None, "--set env.id=A and --env B"),
    (["env.num_envs=9"], {("env", "num_envs"): 7}, None, "--set env.num_envs=9 and --num-envs 7"),
    (["backend=jax"], {("backend",): "torch"}, None, "--set backend=jax and --backend torch"),
    (["env={id: A, num_envs: 4}", "env.num_envs=8"], {}, None, "--set env={id: A, num_envs: 4} and --set env.num_envs"),
    (["env.num_envs=8", "env={id: A}"], {}, None, "--set env.num_envs=8 and --set env={id: A}"),
    (
        ["models.policy.network.0.layers=[8, 8]", "models.policy.network.0.layers.1=4"],
        {},
        None,
        "layers=[8, 8] and --set models.policy.network.0.layers.1=4",
    ),
    (["env={num_envs: 4}", "env.num_envs=4,8"], {}, None, "--set env={num_envs: 4} and --set env.num_envs=4,8"),
    (["seed=5"], {}, "1-3", "--seeds 1-3 and --set seed=5"),
    (["seed=5,6"], {}, "2", "--seeds 2 and --set seed=5,6"),
]


@pytest.mark.parametrize(("settings", "flags", "seeds", "both"), CONTRADICTIONS)
def test_settings_that_contradict_each_other(
    settings: list[str], flags: dict[Key, Any], seeds: str | None, both: str
) -> None:
    with pytest.raises(UserError, match=r"^command line: ") as caught:
        read_experiment([CARTPOLE], settings, flags, seeds)
    assert both in str(caught.value)


def test_settings_that_agree() -> None:
    settings = ["agent.gae_lambda=0.5", "agent.lambda=.5", "env={num_envs: 8}", "env.num_envs=8", "env.id=CartPole-v1"]
    (trial,) = read_experiment([CARTPOLE], settings, {("env", "num_envs"): 8}, None).trials
    assert trial.config.agent.gae_lambda == 0.5 and trial.config.env.num_envs == 8


# Seeds


@pytest.mark.parametrize("as_file", [False, True], ids=["typed", "file"])
@pytest.mark.parametrize("text", ["7, 10, 2", "7..3/2, 1e1"])
def test_alternatives_of_the_seed_are_seeds(tmp_path: Path, text: str, as_file: bool) -> None:
    other = "agent.learning_rate=1e-3,1e-4"
    by_seeds = trials(other, seeds="7,10,2" if text[-1] == "2" else "7,3,10")
    if as_file:
        path = with_section(tmp_path, f"  seed: [{text}]\n").rename(tmp_path / "cartpole.yaml")
        assert trials(other, files=(path,)) == by_seeds
        assert [t.config.seed for t in trials(files=(path,), seeds="4")] == [0, 1, 2, 3]
    else:
        assert trials(f"seed={text}", other) == by_seeds
    assert not [t for t in by_seeds if "seed=" in t.id]


def test_a_seed_that_is_none(tmp_path: Path) -> None:
    assert "command line: seed: found -1" in refusal(CARTPOLE, "seed=1,-1")
    assert "cfg.yaml:2: sweep.seed.1: found 'x'" in refusal(with_section(tmp_path, "  seed: [1, x]\n"))
    assert "is asked for twice" in refusal(CARTPOLE, "seed=010,10")


@pytest.mark.parametrize(
    ("setting", "grid"),
    [
        ("agent.learning_rate=log:1e-4..1e-2", "1e-4..1e-2/5"),
        ("agent.learning_rate=uniform:1e-4..2.5e-3", "0.0001..0.0025/5"),
        ("agent.rollouts=int-log:16..512", "16,38,91,215,512"),
        ("agent.rollouts=16..23", "16..23/2"),
        ("trainer.timesteps=1000..2000000", "1000..2000000/5"),
    ],
)
def test_a_grid_in_place_of_a_range_has_its_spacing(setting: str, grid: str) -> None:
    assert refusal(CARTPOLE, setting).endswith(f"or write a grid, such as {grid}")
    assert len(trials(f"{setting.partition('=')[0]}={grid}")) == (2 if grid.endswith("/2") else 5)


# What changes nothing

IDLE = {
    "agent.alpha=0.1,0.2": "agent.alpha changes nothing: it is RPO's, and agent.class is PPO",
    "agent.team_return=sum,mean": "agent.team_return changes nothing: agent.class PPO is of one agent",
    "trainer.headless=True,False": "trainer.headless changes nothing",
    "trainer.render_interval=1,2": "accepted for the sake of skrl's files",
    "trainer.stochastic_evaluation=True,False": "evaluation.interval is 0 (launch eval has",
    "evaluation.episodes=5,6": "evaluation.interval is 0",
    "agent.experiment.directory=a,b": "all trials of a launch are written into one directory",
    "memory.memory_size=-1,32": "memory.memory_size changes nothing",
    "agent.learning_rate_scheduler_kwargs.kl_threshold=0.01,0.02": "there is no agent.learning_rate_scheduler",
    "agent.observation_preprocessor_kwargs.epsilon=1e-8,1e-6": "there is no agent.observation_preprocessor",
    "agent.observation_statistics=first_epoch,frozen": "there is no agent.observation_preprocessor",
    "agent.value_clip=0,-1": "0 and less switch it off",
    "models.policy.min_log_std=-5,-6": "models.policy.class is CategoricalMixin",
    "models.value.clip_actions=True,False": "models.value.clip_actions changes nothing",
}


@pytest.mark.parametrize("setting", IDLE)
def test_a_swept_setting_that_changes_nothing_is_refused(tmp_path: Path, setting: str) -> None:
    base = ["agent.learning_rate_scheduler=null", "agent.observation_preprocessor=null"]
    base = [one for one in base if one.partition("=")[0] != setting.partition("=")[0]]
    assert IDLE[setting] in refusal(CARTPOLE, *base, setting)
    key, _, values = setting.partition("=")
    section = with_section(tmp_path, f"  {key}: [{values}]\n")
    assert IDLE[setting] in refusal(section, *base)
    trials(*base, f"{key}={values.partition(',')[2]}")  # once it is fine


def test_a_setting_that_changes_nothing_in_some_configurations(tmp_path: Path) -> None:
    said = refusal(CARTPOLE, "agent.class=PPO,RPO", "agent.alpha=0.1,0.2")
    assert "class=PPO" in said and "is asked for twice; agent.alpha changes nothing" in said
    assert len(trials(zips=[["agent.class=PPO,RPO,RPO", "agent.alpha=0.1,0.1,0.2"]])) == 3


def test_a_setting_in_step_that_changes_nothing() -> None:
    said = refusal(CARTPOLE, zips=[["agent.learning_rate=1e-3,1e-4", "agent.alpha=0.1,0.2"]])
    assert said.endswith("agent.alpha changes nothing: it is RPO's, and agent.class is PPO")
    assert len(trials(zips=[["agent.learning_rate=1e-3,1e-4", "trainer.timesteps=4096,8192"]])) == 2


def test_schedules_and_deviations_of_several_names() -> None:
    base = ["agent.learning_rate_scheduler_kwargs={gamma: 0.9}"]
    said = refusal(CARTPOLE, *base, "agent.learning_rate_scheduler=exponential,ExponentialLR")
    assert "is asked for twice; give each configuration once" in said
    pendulum = CARTPOLE.with_name("pendulum.yaml")
    assert "is asked for twice" in refusal(pendulum, "models.policy.initial_log_std=0,[0]")


@pytest.mark.parametrize(
    "base",
    [
        ["agent.value_clip=0", "agent.changes=[{at: 160, value_clip: 0.2}]"],
        ["agent.class=IPPO", "agent.value_clip=0", "agent.of_agents={value_clip: {a: '0.2'}}"],
    ],
)
def test_a_setting_that_a_later_number_or_one_agent_reads(base: list[str]) -> None:
    assert len(trials(*base, "agent.value_loss=skrl,max")) == 2


@pytest.mark.parametrize("first", ["policy", "value"])
def test_layers_that_nobody_reads(tmp_path: Path, first: str) -> None:
    data = yaml.safe_load(CARTPOLE.read_text())
    second = "value" if first == "policy" else "policy"
    data["models"] = {"separate": False, first: data["models"][first], second: data["models"][second]}
    path = tmp_path / "cfg.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    setting = f"models.{second}.network.0.layers=[8],[9]"
    expected = f"models.separate is False, so both read the network of {first}"
    assert expected in refusal(path, setting)
    assert expected in refusal(path, zips=[[setting, "agent.learning_rate=1e-3,1e-4"]])
    assert len(trials(f"models.{first}.network.0.layers=[8],[9]", files=(path,))) == 2


@pytest.mark.parametrize(
    "setting",
    ["agent.entropy_loss_scale=1,1.0", "agent.learning_rate=1e-3,.001", "agent.rollouts=010,10",
     "models.policy.output=ACTIONS,1 * ACTIONS", "models.policy.network.0.activations=relu,ReLU",
     "models.policy.network.0.layers=[8],[{linear: 8}]", "agent.learning_rate=1e-3,[1e-3,1e-3]",
     "agent.learning_rate_scheduler=cosine,Cosine", "models.policy.network.0.layers=[100],[1e2],['100']"],
)  # fmt: skip
def test_two_spellings_of_one_value_are_one_trial(setting: str) -> None:
    if "1 * " in setting:
        assert len(trials(setting)) == 2  # another expression, which may round
    else:
        assert "is asked for twice; give each configuration once" in refusal(CARTPOLE, setting)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "  {}\n",
            "cfg.yaml:1: sweep: found {}; allowed: keys with their alternatives, such as agent.learning_rate: [",
        ),
        ("", "cfg.yaml:1: sweep: found None; allowed: keys with their alternatives"),
        ("- 5\n", "cfg.yaml:1: sweep: found [5]; allowed: keys with their alternatives"),
        ("  agent.ratio_clip: []\n", "cfg.yaml:2: sweep.agent.ratio_clip: found []; allowed: a list of alternatives"),
        ("  agent.ratio_clip: 0.1\n", "cfg.yaml:2: sweep.agent.ratio_clip: found 0.1; allowed: a list of alternatives"),
        ("  agent.ratio_clip: 1,2\n", "cfg.yaml:2: sweep.agent.ratio_clip: found '1,2'; allowed: a list of alternati"),
        (
            "  agent: {ratio_clip: [0.1, 0.2]}\n",
            "cfg.yaml:2: sweep.agent: found {'ratio_clip': [0.1, 0.2]}; allo",
        ),
        ("  agent..x: [1]\n", "cfg.yaml:2: sweep.agent..x: allowed: a whole key such as agent.learning_rate"),
        ("  agent.rato_clip: [1]\n", "cfg.yaml:2: sweep.agent.rato_clip.0: unknown key. Did you mean 'ratio_clip'"),
        ("  agnet.ratio_clip: [1]\n", "agnet: unknown key. Did you mean 'agent'?"),
        ("  agent.ratio_clip:\n  - 0.1\n  - x\n", "cfg.yaml:4: sweep.agent.ratio_clip.1: found 'x'; allowed: number"),
        ("  agent.lambda: [7]\n", "cfg.yaml:2: sweep.agent.lambda.0: found 7; allowed: "),
        ("  agent.clip_predicted_values: [True]\n", "cfg.yaml:2: sweep.agent.clip_predicted_values.0: agent.clip_pred"),
        (
            "  models.policy.network.0.layers: [x]\n",
            "cfg.yaml:2: sweep.models.policy.network.0.layers.0: found 'x'; allowed: list",
        ),
        (
            "  models.policy.network.5.name: [a]\n",
            "cfg.yaml:2: sweep.models.policy.network.5.name.0: models.policy.",
        ),
        ("  seed.x: [1]\n", "cfg.yaml:2: sweep.seed.x.0: seed.x: seed is a single value without keys"),
        ("  agent.seed: [1]\n  agent.seed: [2]\n", "cfg.yaml:3: sweep.agent.seed: given twice in one block"),
        (
            "  agent.lambda: [0.5]\n  agent.gae_lambda: [0.6]\n",
            "cfg.yaml:3: sweep.agent.gae_lambda.0: given twice, and one of them is swept; give each key",
        ),
        (
            "  agent.ratio_clip: [0.5]\n  zip:\n    agent.ratio_clip: 0.1..0.3/3\n",
            "cfg.yaml:4: sweep.zip.agent.ratio_clip: given twice",
        ),
        (
            "  zip:\n    agent.rollouts: [16, 32]\n    agent.mini_batches: [2]\n",
            "cfg.yaml:2: sweep.zip: agent.rollouts has 2 values and agent.mini_batches 1; allowed: lists of equal",
        ),
        ("  zip: [1, 2]\n", "cfg.yaml:2: sweep.zip.0: found 1; allowed: keys with their alternatives"),
        ("  zip: []\n", "cfg.yaml:2: sweep.zip: found []; allowed: keys with their alternatives"),
        ("  zip: {agent.rollouts: 5}\n", "cfg.yaml:2: sweep.zip.agent.rollouts: found 5; allowed: a list of"),
        ("  agent.learning_rate: [1e-3, 0.001]\n", "cfg.yaml: the trial cfg_learning_rate=0.001_s0_"),
    ],
)
def test_wrong_sections(tmp_path: Path, lines: str, expected: str) -> None:
    assert expected in refusal(with_section(tmp_path, lines))


def test_a_section_over_older_names(tmp_path: Path) -> None:
    path = tmp_path / "cfg.yaml"
    text = (Path(__file__).parents[2] / "fixtures" / "yaml" / "a_orbit_cartpole.yaml").read_text()
    without = "".join(line for line in text.splitlines(keepends=True) if "_interval" not in line)
    path.write_text("sweep: {agent.gae_lambda: [0.9, 0.8], agent.experiment.write_interval: [5]}\n" + without)
    experiment = read_experiment([path], ["env.id=CartPole-v1"], {}, None)
    assert [t.config.agent.gae_lambda for t in experiment.trials] == [0.9, 0.8]
    assert {t.config.agent.experiment.write_interval for t in experiment.trials} == {5}
    (note,) = experiment.notes
    # And not that of what is chosen.
    assert "1.x defaults used: checkpoint_interval 1000;" in note and "write_interval" not in note
    path.write_text("sweep: {agent.gae_lambda: [7]}\n" + without)
    assert refusal(path).startswith("cfg.yaml:1: sweep.agent.gae_lambda.0: found 7; allowed: ")


def test_a_runner_trains_one_configuration(swept: Path) -> None:
    from runner.api import Runner

    said = "describes several configurations, and one is wanted here; `launch FILE` trains them all, without the"
    with pytest.raises(UserError, match=rf"^{swept}:1: sweep: {said}"):
        load_config(swept)
    loaded = Runner.load_cfg_from_yaml(swept)
    assert "sweep" in loaded
    with pytest.raises(UserError, match=f"^configuration: sweep: {said}"):
        resolve(loaded)


def test_a_misspelt_section(tmp_path: Path) -> None:
    path = tmp_path / "cfg.yaml"
    path.write_text("sweeps: {agent.ratio_clip: [1]}\n" + CARTPOLE.read_text())
    assert refusal(path).startswith(
        "cfg.yaml:1: sweeps: unknown key. Did you mean 'sweep' or 'seed'? Allowed here: agent, "
    )
    assert "unknown key. Allowed here: agent" in refusal(CARTPOLE, "swoop=1")


# The command line


def test_a_plan_shows_what_a_file_sweeps_and_packs_it_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = with_section(tmp_path, "  agent.learning_rate: 1e-5..1e-2/4\n")
    assert main([str(swept), "--seeds", "2", "--workers", "1", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "8 trials in 1 pack " in shown
    for rate in ("1e-05", "0.0001", "0.001", "0.01"):
        assert f"cfg_learning_rate={rate} (seeds 0-1)" in shown


def test_show_config_prints_each_choice_without_the_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swept = with_section(tmp_path, "  agent.learning_rate: 1e-5..1e-2/4\n")
    assert main([str(swept), str(CARTPOLE), "--dry-run", "--show-config"]) == 0
    shown = capsys.readouterr().out
    documents = list(yaml.safe_load_all(shown))
    assert [document["agent"]["learning_rate"] for document in documents] == [1e-5, 1e-4, 1e-3, 1e-2, 1e-3]
    assert all("sweep" not in document for document in documents)
    comments = [line for line in shown.splitlines() if line.startswith("#")]
    assert comments[-2:] == [f"# cfg_learning_rate=0.01, from {swept}", f"# cartpole, from {CARTPOLE}"]
