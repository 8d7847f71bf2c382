"""What a report tells, and what is beside it. `test_page.py` looks at it in a browser."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher import report, stats
from launcher.ledger.records import grid_of, read_records
from launcher.plan import directory as folder
from launcher.report import data, draw, figures
from launcher.report import page as page_of
from launcher.report.data import Report
from launcher.report.panels import comparison, evaluations, panels, summary, sweep, throughput
from launcher.report.parts import Table, distinct, interval, short
from launcher.watch import standing
from runner.errors import UserError
from runner.training.tracking import SCORE
from tests.launcher import report_launches
from tests.launcher.builders import read_experiment
from tests.launcher.refusals import CARTPOLE
from tests.launcher.report_launches import EVIL, SETTINGS, START_UP

RATES = "agent.learning_rate=0.001,0.003,0.01"
LOSSES = "agent.entropy_loss_scale=0.0,0.01"
LOG = "".join(f"line {i}\n" for i in range(100)) + f"50%\r\x1b[31mMemoryError\x1b[0m {EVIL}\n"
POINTS = 12
PARTS = ("Time / Environment", "Time / Update")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of 3 x 2 configurations with 4 seeds, of which two failed, one diverged and one goes on."""
    path = tmp_path_factory.mktemp("runs") / "sweep"
    fates = {(0, 1): "failed", (0, 3): "failed", (1, 0): "diverged", (5, 2): "running"}
    trials = report_launches.build(path, [RATES, LOSSES], 4, POINTS, fates, PARTS, LOG)
    report_launches.evaluate(path, [trials[0], trials[4], trials[5]])
    return path


@pytest.fixture(scope="module")
def told(launched: Path) -> Report:
    return read(launched)


@pytest.fixture(scope="module")
def page(launched: Path) -> Path:
    return report.write([launched])


def read(*launches: Path) -> Report:
    return data.read(data.find(launches, Path("unused")))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1], parse_constant=lambda word: pytest.fail(word))


def text_of(launch: Path, path: Path | None = None) -> str:
    """The page of a launch, without the pictures beside it."""
    told = read(launch)
    return page_of.render(told, panels(told), path or launch / "report.html")


def tabs(page: Path) -> list[str]:
    return re.findall(r'data-tab="(\w+)"', page.read_text())


# Numbers


def test_configurations_are_sorted_and_only_finished_trials_count(told: Report) -> None:
    by_row = {seed.row.trial.id: seed.row for seed in told.seeds}
    assert len(by_row) == 24
    iqms = [c.iqm for c in told.configurations]
    assert None not in iqms and iqms == sorted(iqms, reverse=True)
    for c in told.configurations:
        finished = [s.row.value for s in c.seeds if s.row.trial.state == "finished"]
        assert c.iqm == stats.interquartile_mean(finished) and sorted(finished) == sorted(c.scores)
    of_name = {c.name: c for c in told.configurations}
    first = of_name["cartpole_learning_rate=0.001_entropy_loss_scale=0"]
    assert (first.lost, len(first.scores), first.interval) == (2, 2, None)
    second = of_name["cartpole_learning_rate=0.001_entropy_loss_scale=0.01"]
    assert (second.lost, len(second.scores)) == (1, 3)
    assert second.interval == stats.bootstrap_interval(second.scores)


def test_labels_leave_out_what_all_names_begin_with(told: Report) -> None:
    assert told.configurations[0].label == "learning_rate=0.01, entropy_loss_scale=0.01"
    assert data._labels(["a", "ab"], []) == ["a", "ab"]
    assert data._labels(["x_lr=1", "y_lr=2"], ["agent.lr"]) == ["x, lr=1", "y, lr=2"]
    assert data._labels(["cartpole"], []) == ["cartpole"]


def test_curves_hold_lost_trials_until_their_end(told: Report) -> None:
    (c,) = [c for c in told.configurations if c.name.endswith("0.001_entropy_loss_scale=0")]
    assert c.curve.seeds.tolist() == [0] + [4] * 5 + [2] * 6
    assert np.isnan(c.curve.low[6:]).all() and not np.isnan(c.curve.low[1:6]).any()
    assert not np.isnan(c.curve.iqm[1:]).any()
    ends = [np.flatnonzero(~np.isnan(seed.curves[SCORE]))[-1] for seed in c.seeds]
    assert ends == [11, 5, 11, 5]


def test_grid_keeps_the_last_step(launched: Path, told: Report) -> None:
    records = [read_records(launched / "ledger.sqlite", seed.row.trial.id) for seed in told.seeds[:4]]
    whole = grid_of(records, 100)
    assert len(whole) == POINTS
    thin = grid_of(records, 5)
    assert len(thin) == 5 and set(thin) <= set(whole) and (thin[0], thin[-1]) == (whole[0], whole[-1])
    assert grid_of([], 5).tolist() == []


def test_page_and_csv_say_the_same(page: Path, told: Report) -> None:
    scores = rows(page.with_suffix("") / "scores.csv")
    assert len(scores) == 24
    assert [row["state"] for row in scores if row["counted"] == "0"].count("failed") == 2
    for c in told.configurations:
        mine = [row for row in scores if row["configuration"] == c.name]
        counted = [float(row["return_last_100_episodes"]) for row in mine if row["counted"] == "1"]
        assert counted == c.scores.tolist()
    curves = rows(page.with_suffix("") / "curves.csv")
    assert len(curves) == 20 * POINTS + 4 * POINTS // 2
    first = curves[0]
    assert first["return_last_100_episodes"] == "" and float(first["env_steps_per_second"]) > 0
    aggregated = rows(page.with_suffix("") / "aggregated.csv")
    assert len(aggregated) == sum(len(c.curve.env_steps) for c in told.configurations)
    best = told.configurations[0]
    last = [row for row in aggregated if row["configuration"] == best.name][-1]
    assert float(last["iqm"]) == best.curve.iqm[-1] and last["seeds"] == str(best.curve.seeds[-1])
    evaluated = rows(page.with_suffix("") / "evaluations.csv")
    assert len(evaluated) == 60 and {row["launch"] for row in evaluated} == {"sweep"}
    seeds = {seed.row.trial.id: (c.name, c.task, seed.row.trial) for c in told.configurations for seed in c.seeds}
    for row in evaluated:
        name, task, trial = seeds[row["trial"]]
        assert (row["configuration"], row["task"], row["seed"]) == (name, task, str(trial.seed))
        assert int(row["env_steps"]) == 1000 * trial.num_envs
    assert not list(page.with_suffix("").glob(".*"))


def test_every_figure_is_a_picture_and_a_table(page: Path, told: Report) -> None:
    plots = [plot for panel in panels(told) for plot in panel.plots]
    assert {plot.name for plot in plots} == set(data_of(page)["figures"])
    for plot in plots:
        numbers = rows(page.with_suffix("") / f"{plot.name}.csv")
        assert len(numbers) == sum(len(one.x) for one in plot.figure.series) > 0
        if plot.main:
            assert (page.with_suffix("") / f"{plot.name}.png").read_bytes().startswith(b"\x89PNG")
            assert "<svg" in (page.with_suffix("") / f"{plot.name}.svg").read_text()
            assert f'href="report/{plot.name}.svg"' in page.read_text()
    for name in ("learning_curves", "final_returns"):
        assert "learning_rate=0.01, entropy_loss_scale=0.01" in (page.with_suffix("") / f"{name}.svg").read_text()


def test_a_figures_csv_has_names_for_places_and_nothing_for_what_is_unknown(told: Report, page: Path) -> None:
    found = rows(page.with_suffix("") / "final_returns.csv")
    assert len(found) == 6 + 20
    best, *_ = found
    assert best["configuration"] == f"1. {told.configurations[0].label} (3 of 4)"
    assert (float(best["low"]), float(best["high"])) == told.configurations[0].interval
    curve = rows(page.with_suffix("") / "learning_curves.csv")
    assert curve[0]["return (mean of the last 100 episodes)"] == "" and "nan" not in str(curve)


def test_the_legend_of_a_picture_is_whole(tmp_path: Path) -> None:
    names = [f"a rather long name of the configuration of number {i}" for i in range(12)]
    looks = figures.styles(12)
    series = [figures.Series(name, [0, 1], [0, i], looks[i]) for i, name in enumerate(names)]
    draw.write(figures.Figure(series, figures.Axis("x"), figures.Axis("y")), tmp_path / "some")
    drawing = (tmp_path / "some.svg").read_text()
    height = float(re.search(r'height="([\d.]+)pt"', drawing)[1])  # type: ignore[index]
    places = re.findall(r'y="([\d.]+)" transform="[^"]*">(a rather long[^<]*)', drawing)
    assert {text for _, text in places} == set(names) and all(0 < float(y) < height for y, _ in places)


# Texts


def test_failures_are_counted_and_shown_with_their_logs(page: Path) -> None:
    text = page.read_text()
    assert "<b>2 failed and 1 diverged</b> of 24 trials" in text
    assert "<b>Not finished:</b> 1 interrupted of 24 trials" in text
    assert "<b>Few seeds:</b> 1 of 6 configurations have fewer than 3 finished seeds" in text
    assert "2 seeds: none" in text
    assert 'Failures <span class="count">3</span>' in text
    assert "line 99\nMemoryError &lt;/script&gt;" in text and "line 61\n" in text and "line 60\n" not in text
    assert "A loss or parameter stopped being a finite number" in text


def test_nothing_from_outside_becomes_part_of_the_page(page: Path) -> None:
    text = page.read_text()
    assert EVIL not in text and "alert(1)" in text
    assert text.count("</script>") == text.count("<script") - text.count('"<script') == 4
    assert "http://" not in text[: text.index("plotly.js v")] and 'src="http' not in text


def test_configurations_that_differ(page: Path) -> None:
    text = page.read_text()
    assert "<th>agent.learning_rate</th><th>agent.entropy_loss_scale</th>" in text
    assert '<td>0.01</td><td class="differs">0</td>' in text
    assert text.count("<details><summary>cartpole_<wbr>learning_") == 6 and "  learning_rate: 0.003\n" in text


def test_what_was_run(page: Path, launched: Path) -> None:
    text = page.read_text()
    command = f"launch configs/classic/cartpole.yaml --seeds 4 --set {RATES} --set {LOSSES}"
    assert f'<pre class="command">{command}</pre>' in text and str(launched) in text
    assert re.search(r"python 3\.\d+\.\d+, sunflower ", text)


# Figures


def test_probability_of_improvement_and_its_interval(told: Report) -> None:
    table = next(part for part in summary.panel(told).parts if isinstance(part, Table))
    cells = [row[table.headings.index("P(best > this):")] for row in table.rows]
    first, second, *_ = told.configurations
    expected = stats.probability_of_improvement(first.scores, second.scores)
    low, high = stats.improvement_interval(first.scores, second.scores)  # type: ignore[misc]
    assert cells[0].text == "-" and cells[1].value == pytest.approx(expected)
    assert cells[1].text == f"{expected:.2f} ({low:.2f} to {high:.2f})"
    assert cells[-1].text == "1.00"  # two seeds: no interval


def test_few_seeds_have_no_error_bars(told: Report) -> None:
    figure = comparison.returns(told.configurations)
    diamonds = [one for one in figure.series if one.kind == "points"]
    assert [one.ends is not None for one in diamonds] == [c.interval is not None for c in told.configurations]
    assert sum(len(one.x) for one in figure.series if one.kind == "dots") == 20
    assert "(2 of 4)" in str(figure.y.labels)


def test_the_interval_of_three_or_four_seeds_is_said_to_be_their_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seeds in (3, 4, 5):
        scores = rng.normal(size=seeds)
        found = stats.bootstrap_interval(scores, stats.interquartile_mean, rng)
        assert (found == pytest.approx((scores.min(), scores.max()))) == (seeds < 5)
    words = "With 3 or 4 seeds it is their range, from the worst to the best."
    assert words in interval([5, 4, 3, 2]) and "range" not in interval([2, 5])
    report_launches.build(tmp_path / "three", seeds=3, points=4)
    text = text_of(tmp_path / "three")
    assert text.count("With 3 seeds it is their range, from the worst to the best.") == 2


def test_sweep_over_two_axes(told: Report, page: Path) -> None:
    found = sweep.by_setting(told.configurations)
    assert list(found) == ["agent.learning_rate", "agent.entropy_loss_scale"]
    figure = found["agent.entropy_loss_scale"]
    (line,) = [one for one in figure.series if one.kind == "line"]
    points = [one for one in figure.series if one.kind == "points"]
    assert list(line.x) == [0.0, 0.01] and len(points) == 6
    of_none = [c.iqm for c in told.configurations if c.settings["agent.entropy_loss_scale"] == 0]
    assert line.y[0] == pytest.approx(np.mean(of_none))
    assert tabs(page) == [
        "summary",
        "curves",
        "comparison",
        "sweep",
        "evaluation",
        "throughput",
        "failures",
        "trials",
        "configurations",
    ]


def test_settings_that_go_together_are_one_axis(tmp_path: Path) -> None:
    zips = [["agent.learning_rate=0.001,0.01,0.1", "agent.entropy_loss_scale=0.0,0.01,0.02"]]
    report_launches.build(tmp_path / "a", seeds=3, points=4, zips=zips)
    told = read(tmp_path / "a")
    assert list(sweep.swept(told.configurations)) == ["agent.learning_rate"]
    ((_, figure),) = sweep.by_setting(told.configurations).items()
    assert figure.x.kind == "log"
    (line,) = [one for one in figure.series if one.kind == "line"]
    assert list(line.x) == [0.001, 0.01, 0.1]
    assert all(one.ends is not None for one in figure.series if one.kind == "points")
    by_rate = {c.settings["agent.learning_rate"]: c for c in told.configurations}
    assert line.y == pytest.approx([by_rate[x].iqm for x in line.x])


def networks(role: str, *layers: int) -> str:
    return f"models.{role}.network.0.layers=" + ",".join(f"[{size}]" for size in layers)


def test_settings_of_one_last_word_and_long_values_are_told_apart(tmp_path: Path) -> None:
    sets = [networks("policy", 32, 64), networks("value", 16, 128), "models.separate=true"]
    report_launches.build(tmp_path / "a", sets, seeds=1, points=4)
    tab = sweep.panel(read(tmp_path / "a"))
    assert tab is not None
    assert [plot.name for plot in tab.plots] == ["by_policy_network", "by_value_network"]
    assert [plot.title for plot in tab.plots] == ["Final return by policy.network", "Final return by value.network"]
    lines = [one for plot in tab.plots for one in plot.figure.series if one.kind == "line"]
    assert [{place.split(": ")[1].split(",")[0] for place in line.x} for line in lines] == [
        {"(32)", "(64)"},
        {"(16)", "(128)"},
    ]


def test_values_are_cut_where_their_difference_shows() -> None:
    assert sweep.apart(["relu", "tanh"]) == ["relu", "tanh"]
    assert sweep.apart([f"/a/long/way/to/the/file/{name}" for name in "ab"]) == ["…a", "…b"]
    assert sweep.apart(["a" * 40, "b" * 40]) == ["a" * 23 + "…", "b" * 23 + "…"]
    assert sweep.apart(["a" * 40, "a" * 40]) == ["…", "… (2)"]


@pytest.mark.parametrize(
    ("values", "kind", "places"),
    [("1,1.0,5", "linear", [1, 5]), (".inf,2.0", "category", ["inf", "2"]), (".nan,2.0", "category", ["nan", "2"])],
)
def test_numbers_that_are_equal_or_not_finite_have_their_places(
    tmp_path: Path, values: str, kind: str, places: list[object]
) -> None:
    report_launches.build(tmp_path / "a", [f"env.arguments.gravity={values}"], seeds=1, points=4)
    (figure,) = sweep.by_setting(read(tmp_path / "a").configurations).values()
    (line,) = [one for one in figure.series if one.kind == "line"]
    assert figure.x.kind == kind and sorted(line.x, key=str) == sorted(places, key=str)
    assert "Final return by gravity" in text_of(tmp_path / "a")


def test_time_of_attempts(told: Report) -> None:
    ((launch, seeds, _),) = told.by_launch()
    assert len(launch.standing.attempts) == 6  # of which one is not closed
    expected = (6 * START_UP, 6 * 0.05 * POINTS, 5 * 1.0)
    assert throughput.spent(launch, seeds) == pytest.approx(expected, abs=1e-4)
    figure = throughput.throughput(told)
    (line,) = figure.series
    width = line.x[1] - line.x[0]
    assert sum(line.y) * width == pytest.approx(sum(seed.row.env_steps for seed in told.seeds), rel=1e-3)


def test_rows_of_equal_names_stay_apart() -> None:
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_time_split_is_told_where_records_tell_it(told: Report, tmp_path: Path) -> None:
    table = throughput.speeds(told)
    assert list(table.headings[-2:]) == ["Environment, %:", "Update, %:"] and len(table.rows) == 6
    assert all(sum(cell.value or 0.0 for cell in row[-2:]) == pytest.approx(100) for row in table.rows)
    seed = told.configurations[0].seeds[0]
    records = read_records(told.launches[0].standing.directory / "ledger.sqlite", seed.row.trial.id)
    assert seed.split["Update"] == pytest.approx(records.values["Time / Update"].sum())
    report_launches.build(tmp_path / "a", seeds=1, points=4)
    assert throughput.speeds(read(tmp_path / "a")).headings[-1] == "steps/s of a trial, median:"


def test_evaluations(page: Path, told: Report) -> None:
    first = next(evaluations.evaluated(told))
    assert first.returns.tolist() == [value for one in first.last for value in one.returns]
    words = "CartPole-v1, 20 episodes, most probable actions, seed 0"
    assert evaluations.terms(SETTINGS) == words and page.read_text().count(words) == 2 + 1
    assert evaluations.terms("odd") == "odd"
    figure = evaluations.spread(list(evaluations.evaluated(told)))
    assert [one.y[0] for one in figure.series] == [1, 1] and [one.y[-1] for one in figure.series] == [0, 0]


def test_seeds_that_did_not_finish_are_named_beside_their_evaluations(tmp_path: Path) -> None:
    trials = report_launches.build(tmp_path / "a", fates={(0, 1): "diverged", (0, 2): "failed"}, points=4)
    report_launches.evaluate(tmp_path / "a", trials[:2], timestep=400)
    report_launches.evaluate(tmp_path / "a", trials[2:3], timestep=200)
    words = "counted too: 1 diverged, 1 failed of 4 seeds; not counted: 1 of 4 seeds without an evaluated checkpoint"
    assert f"cartpole: {words}; checkpoints of timesteps 200 to 400." in text_of(tmp_path / "a")


def test_evaluations_of_every_checkpoint_are_a_curve(tmp_path: Path) -> None:
    trials = report_launches.build(tmp_path / "a", ["agent.learning_rate=0.001,0.002"], 5, 4)
    for timestep in (100, 200, 300):
        report_launches.evaluate(tmp_path / "a", trials[:5] if timestep > 200 else trials, timestep=timestep)
    told = read(tmp_path / "a")
    panel = evaluations.panel(told)
    assert panel is not None
    plot = next(plot for plot in panel.plots if plot.name == "evaluated_checkpoints")
    by_name = {one.name: one for one in plot.figure.series}
    envs = trials[0].config.env.num_envs or 0
    short_one, whole = (by_name[f"learning_rate={rate}"] for rate in (0.002, 0.001))
    assert list(whole.x) == [100 * envs, 200 * envs, 300 * envs] and list(short_one.x) == list(whole.x)[:2]
    (found,) = [one for one in evaluations.evaluated(told) if one.configuration.label == "learning_rate=0.001"]
    means = [np.mean(one.returns) for _, steps, one in found.checkpoints if steps == 100 * envs]
    assert len(means) == 5 and whole.y[0] == pytest.approx(stats.interquartile_mean(means))
    assert whole.ends is not None and whole.ends[0][0] < whole.y[0] < whole.ends[1][0]


def test_films_are_shown_beside_what_they_show(tmp_path: Path) -> None:
    report_launches.build(tmp_path / "a b", ["agent.learning_rate=0.001,0.002"], 1, 4)
    folder = tmp_path / "a b" / "videos"
    folder.mkdir()
    for name in ("cartpole_learning_rate=0.002_1000.mp4", "other_64-128.gif", "note.txt"):
        (folder / name).touch()
    text = text_of(tmp_path / "a b")
    assert 'src="videos/cartpole_learning_rate%3D0.002_1000.mp4"></video>' in text
    assert "<figcaption>learning_rate=0.002, checkpoint of timestep 1000</figcaption>" in text
    assert 'alt="other_64-128" src="videos/other_64-128.gif"' in text and "note.txt" not in text
    away = text_of(tmp_path / "a b", tmp_path / "pages" / "page.html")
    assert 'src="../a%20b/videos/other_64-128.gif"' in away


def test_values_are_written_as_people_write_them() -> None:
    assert short({"a": 1, "b": {"c": [64, "elu"]}, "d": []}) == "a: 1, b: (c: (64, elu)), d: none"
    assert [short(value) for value in (True, None, 0.001, "x", [64, 64])] == ["true", "null", "0.001", "x", "64, 64"]
    settings = {"deterministic": False, "env": {"id": "A", "noop": [1]}, "episodes": 2, "seed": 0, "at_once": 2}
    assert evaluations.terms(json.dumps(settings)) == "A, 2 episodes, sampled actions, seed 0, noop: (1), at_once: 2"


def test_the_words_of_the_page_hold_no_json(tmp_path: Path) -> None:
    layers = 'agent.learning_rate_scheduler_kwargs={"kl_threshold": 0.008},{"kl_threshold": 0.02}'
    report_launches.build(tmp_path / "a", [layers, "agent.learning_rate_scheduler=KLAdaptiveLR"], 1, 4)
    text = text_of(tmp_path / "a")
    shown = re.sub(r"<(script|style|pre)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert "kl_threshold" in shown and not re.search(r"[{}]|&#34;|\[[^\]]*,", shown)


def test_colours_of_few_and_of_many() -> None:
    twelve = figures.styles(12)
    assert len(set(twelve)) == 12 and all(style.front for style in twelve)
    many = figures.styles(64)
    assert [style.front for style in many].count(False) == 64 - len(figures.PALETTE)
    assert many[:6] == twelve[:6]


# One, several, none


def test_one_configuration_is_compared_with_nothing(tmp_path: Path) -> None:
    report_launches.build(tmp_path / "one", seeds=1, points=4)
    page = report.write([tmp_path / "one"], tmp_path / "other" / "page.html")
    assert page == tmp_path / "other" / "page.html" and (tmp_path / "other" / "page" / "scores.csv").is_file()
    assert tabs(page) == ["summary", "curves", "throughput", "trials", "configurations"]
    assert "All configurations have fewer than 3 finished seeds" in page.read_text()
    traces = data_of(page)["figures"]["learning_curves"]["data"]
    assert [trace.get("thin", False) for trace in traces].count(True) == 1


def test_several_launches_make_one_comparison(tmp_path: Path) -> None:
    for name in ("x/a", "x/b"):
        report_launches.build(tmp_path / name, ["agent.learning_rate=0.001,0.002"], 3, 4)
    report_launches.build(tmp_path / "x" / "c", ["agent.learning_rate=0.005"], 3, 4)
    paths = [tmp_path / "x" / name for name in ("a", "b", "c")]
    page = report.write(paths)
    assert page == tmp_path / "x" / "report.html"
    told = read(*paths)
    names = {c.name for c in told.configurations}
    assert len(names) == 5 and {"a: cartpole_learning_rate=0.001", "b: cartpole_learning_rate=0.001"} <= names
    assert [launch.name for launch in told.launches] == ["a", "b", "c"]
    text = page.read_text()
    assert all(f"What was run: {name}" in text for name in "abc")
    assert "comparison" in tabs(page)


def test_launches_of_one_name_are_told_apart() -> None:
    folders = [Path("/runs/x/a"), Path("/runs/y/a"), Path("/runs/y/b")]
    assert data._launch_names(folders) == ["x/a", "y/a", "y/b"]


def test_tasks_are_not_compared_with_each_other(told: Report) -> None:
    first, *rest = told.configurations
    other = dataclasses.replace(first, settings={**first.settings, "env.id": "Acrobot-v1"})
    both = dataclasses.replace(told, configurations=[other, *rest])
    assert both.tasks == ["Acrobot-v1", "CartPole-v1"]
    panel = comparison.panel(both)
    assert panel is not None
    found = {plot.name: plot.figure for plot in panel.plots}
    assert list(found["final_returns_acrobot_v1"].y.labels) == [0]
    assert list(found["final_returns_cartpole_v1"].y.labels) == [0, 1, 2, 3, 4]
    assert [plot.title for plot in panel.plots] == ["Final returns: Acrobot-v1", "Final returns: CartPole-v1"]


def test_launch_that_has_not_begun(tmp_path: Path) -> None:
    folder.create(tmp_path / "new", read_experiment([CARTPOLE], [], {}, "2").trials)
    page = report.write([tmp_path / "new"])
    assert tabs(page) == ["summary", "trials", "configurations"]
    text = page.read_text()
    assert "<b>Not finished:</b> 2 pending of 2 trials" in text
    missing = ["no trial has reported yet", "there is one configuration", "no training has begun", "launch eval"]
    assert "Not on this page: learning curves (" in text and all(words in text for words in missing)


def test_a_figure_without_values_says_so(tmp_path: Path) -> None:
    report_launches.build(tmp_path / "a", seeds=2, points=1)  # no episode has ended
    page = report.write([tmp_path / "a"])
    (note,) = data_of(page)["figures"]["learning_curves"]["layout"]["annotations"]
    assert note["text"] == "no episode has ended yet"
    assert note["text"] in (page.with_suffix("") / "learning_curves.svg").read_text()


def test_launch_at_work_is_not_disturbed(launched: Path, tmp_path: Path) -> None:
    from launcher.ledger.ledger import Ledger

    with folder.working(launched), Ledger(launched) as ledger:
        page = report.write([launched], tmp_path / "page.html")
        assert ledger.trials()
    assert "<b>Not finished:</b> 1 running of 24 trials" in page.read_text()


@pytest.mark.parametrize(
    ("directories", "out", "expected"),
    [
        ([], None, "no launch directory"),
        (["nothing"], None, "nothing: not a launch directory: there is no such folder"),
        (["empty"], None, "empty: not a launch directory: it has no ledger.sqlite"),
        (["launch", "launch"], None, "launch: given twice"),
        (["launch"], "page.txt", "allowed: a file whose name ends in .html"),
        (["launch"], "empty", "allowed: a file whose name ends in .html"),
        (["launch"], "launch.html", "which is a launch; choose another name"),
        (["launch"], "file/page.html", "cannot be written: Not a directory"),
    ],
)
def test_refusals(launched: Path, tmp_path: Path, directories: list[str], out: str | None, expected: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "launch").symlink_to(launched)
    with pytest.raises(UserError, match=re.escape(expected).replace("launch:", "(launch|sweep):")):
        report.write([tmp_path / name for name in directories], None if out is None else tmp_path / out)
    assert not (tmp_path / "empty" / "report").exists()


def test_import_is_light() -> None:
    code = (
        "import sys, launcher.report; "
        "heavy = {'plotly', 'matplotlib', 'jinja2', 'scipy', 'numpy', 'ray', 'torch', 'jax', 'envpool', 'pandas'};"
        "found = heavy & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_logs_that_are_elsewhere(launched: Path) -> None:
    launch = standing.read(launched)
    lost = next(row for row in launch.rows if row.trial.state == "failed")
    away = {number: dataclasses.replace(row, log="logs/away.log") for number, row in launch.attempts.items()}
    found = dataclasses.replace(launch, attempts=away).failures(9, 9)
    assert found[0].trials[0] == lost.trial.id and found[0].lines == ()
    assert "is not on this machine" in found[0].log
    assert all(one.log == "" for one in launch.failures(0, 9))
