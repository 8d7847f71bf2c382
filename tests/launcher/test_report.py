"""What a report tells, and what is beside it. `test_report_page.py` looks at it in a browser."""

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

from launcher import report, report_data, report_evaluations, report_figures, report_sweeps, stats
from launcher.ledger.records import grid_of, read_records
from launcher.plan import directory as folder
from launcher.plan.experiment import read_experiment
from launcher.report_data import Report
from launcher.watch import status
from runner.errors import UserError
from runner.training.tracking import SCORE
from tests.launcher import report_launches
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
    return report_data.read([launched])


@pytest.fixture(scope="module")
def page(launched: Path) -> Path:
    return report.write([launched])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1], parse_constant=lambda word: pytest.fail(word))


def tabs(page: Path) -> list[str]:
    return re.findall(r'data-tab="(\w+)"', page.read_text())


# Numbers


def test_configurations_are_sorted_and_only_finished_trials_count(told: Report) -> None:
    by_row = {seed.row.trial.trial: seed.row for seed in told.seeds}
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
    rng = np.random.default_rng(0)
    assert second.interval == stats.bootstrap_interval(second.scores, stats.interquartile_mean, rng)


def test_labels_leave_out_what_all_names_begin_with(told: Report) -> None:
    assert told.configurations[0].label == "learning_rate=0.01, entropy_loss_scale=0.01"
    assert report_data._labels(["a", "ab"], []) == ["a", "ab"]
    assert report_data._labels(["x_lr=1", "y_lr=2"], ["agent.lr"]) == ["x, lr=1", "y, lr=2"]
    assert report_data._labels(["cartpole"], []) == ["cartpole"]


def test_curves_hold_lost_trials_until_their_end(told: Report) -> None:
    (c,) = [c for c in told.configurations if c.name.endswith("0.001_entropy_loss_scale=0")]
    assert c.curve.seeds.tolist() == [0] + [4] * 5 + [2] * 6
    assert np.isnan(c.curve.low[6:]).all() and not np.isnan(c.curve.low[1:6]).any()
    assert not np.isnan(c.curve.iqm[1:]).any()
    ends = [np.flatnonzero(~np.isnan(seed.curves[SCORE]))[-1] for seed in c.seeds]
    assert ends == [11, 5, 11, 5]


def test_grid_keeps_the_last_step(launched: Path, told: Report) -> None:
    records = [read_records(launched / "ledger.sqlite", seed.row.trial.trial) for seed in told.seeds[:4]]
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
    assert not list(page.with_suffix("").glob(".*"))


def test_figures_for_papers(page: Path) -> None:
    for name in ("learning_curves", "final_returns"):
        assert (page.with_suffix("") / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        drawing = (page.with_suffix("") / f"{name}.svg").read_text()
        assert "<svg" in drawing and "learning_rate=0.01, entropy_loss_scale=0.01" in drawing


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
    assert "<del>-  learning_rate: 0.01</del><ins>+  learning_rate: 0.003</ins>" in text
    assert "YAML, against learning_rate=0.01, entropy_loss_scale=0.01" in text


def test_what_was_run(page: Path, launched: Path) -> None:
    text = page.read_text()
    command = f"launch configs/classic/cartpole.yaml --seeds 4 --set {RATES} --set {LOSSES}"
    assert f'<pre class="command">{command}</pre>' in text and str(launched) in text
    assert re.search(r"python 3\.\d+\.\d+, sunflower ", text)


# Figures


def test_probability_of_improvement_and_intervals(told: Report) -> None:
    figure = report_figures.improvement(told.configurations)
    assert figure is not None
    (trace,) = figure["data"]
    first, second = told.configurations[:2]
    expected = stats.probability_of_improvement(first.scores, second.scores)
    assert trace["z"][0][1] == pytest.approx(expected) and trace["z"][1][0] == pytest.approx(1 - expected)
    assert trace["z"][0][0] is None and "95% interval" in trace["customdata"][0][1]
    assert "fewer than 3 seeds: no interval" in str(trace["customdata"])


def test_few_seeds_have_no_error_bars(told: Report) -> None:
    look = report_figures.styles(len(told.configurations))
    figure = report_figures.final_returns(told.configurations, look)
    diamonds = [trace for trace in figure["data"] if "error_x" in trace]
    assert [trace["error_x"].get("visible", True) for trace in diamonds] == [
        c.interval is not None for c in told.configurations
    ]
    assert sum(len(trace["x"]) for trace in figure["data"] if "error_x" not in trace) == 20
    assert "(2 of 4)" in str(figure["layout"]["annotations"])


def test_sweep_over_two_axes(told: Report, page: Path) -> None:
    ((title, figure),) = report_sweeps.heat_maps(told.configurations)
    assert title == "learning rate \u00d7 entropy loss scale"
    (trace,) = figure["data"]
    assert (trace["x"], trace["y"]) == (["0.001", "0.003", "0.01"], ["0", "0.01"])
    assert trace["z"][1][2] == pytest.approx(told.configurations[0].iqm, rel=1e-4)
    assert report_sweeps.one_axis(told.configurations, report_figures.styles(6)) is None
    lines = report_sweeps.parallel(told.configurations, report_figures.styles(6))
    assert lines is not None and len(lines["data"]) == 6 and lines["data"][-1]["y"] == [1.0, 1.0, 1.0]
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
    told = report_data.read([tmp_path / "a"])
    assert list(report_sweeps.swept(told.configurations)) == ["agent.learning_rate"]
    assert report_sweeps.heat_maps(told.configurations) == []
    look = report_figures.styles(3)
    assert report_sweeps.parallel(told.configurations, look) is None
    figure = report_sweeps.one_axis(told.configurations, look)
    assert figure is not None and figure["layout"]["xaxis"]["type"] == "log"
    (trace,) = figure["data"]
    assert trace["x"] == [0.001, 0.01, 0.1] and len(trace["error_y"]["array"]) == 3
    by_rate = {c.settings["agent.learning_rate"]: c for c in told.configurations}
    assert trace["y"] == pytest.approx([by_rate[x].iqm for x in trace["x"]], rel=1e-4)


def test_time_of_attempts(told: Report) -> None:
    parts = report_sweeps.attempt_parts(told, 0)
    assert list(parts) == [1, 2, 3, 4, 5, 6]
    start_up, training, closing, steps = parts[3]
    assert (start_up, training, closing) == pytest.approx((START_UP, 0.05 * POINTS, 1.0), abs=1e-5)
    assert steps == 4 * told.seeds[0].row.env_steps
    figure = report_sweeps.throughput(told)
    assert figure is not None
    (line,) = figure["data"]
    width = line["x"][1] - line["x"][0]
    assert sum(line["y"]) * width == pytest.approx(sum(seed.row.env_steps for seed in told.seeds), rel=1e-3)


def test_rows_of_equal_names_stay_apart() -> None:
    assert report_sweeps.distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_time_split_is_told_where_records_tell_it(told: Report) -> None:
    figure = report_sweeps.time_split(told)
    assert figure is not None
    assert [trace["name"] for trace in figure["data"]] == ["Environment", "Update"]
    assert all(len(set(trace["y"])) == 6 for trace in figure["data"])
    for shares in zip(*(trace["x"] for trace in figure["data"]), strict=True):
        assert sum(shares) == pytest.approx(1, abs=1e-3)
    seed = told.configurations[0].seeds[0]
    records = read_records(told.launches[0].standing.directory / "ledger.sqlite", seed.row.trial.trial)
    assert seed.split["Update"] == pytest.approx(records.values["Time / Update"].sum())


def test_evaluations(page: Path, told: Report) -> None:
    first = report_evaluations.last(told)[0]
    assert first.returns.tolist() == [value for one in first.evaluations for value in one.returns]
    assert first.means.tolist() == [np.mean(one.returns) for one in first.evaluations]
    words = "CartPole-v1, 20 episodes, most probable actions, seed 0"
    assert report_evaluations.terms(SETTINGS) == words and page.read_text().count(words) == 2 + 3
    assert report_evaluations.terms("odd") == "odd"
    (figure,) = report_evaluations.figures(told).values()
    assert [sum(trace["y"]) for trace in figure["data"]] == pytest.approx([1, 1], abs=1e-3)


def test_colours_of_few_and_of_many() -> None:
    twelve = report_figures.styles(12)
    assert len(set(twelve)) == 12 and report_figures.OTHERS not in dict(twelve)
    many = report_figures.styles(64)
    assert [colour for colour, _ in many].count(report_figures.OTHERS) == 64 - len(report_figures.PALETTE)
    assert many[:6] == twelve[:6]


# One, several, none


def test_one_configuration_is_compared_with_nothing(tmp_path: Path) -> None:
    report_launches.build(tmp_path / "one", seeds=1, points=4)
    page = report.write([tmp_path / "one"], tmp_path / "other" / "page.html")
    assert page == tmp_path / "other" / "page.html" and (tmp_path / "other" / "page" / "scores.csv").is_file()
    assert tabs(page) == ["summary", "curves", "throughput", "trials", "configurations"]
    assert "All configurations have fewer than 3 finished seeds" in page.read_text()
    (c,) = data_of(page)["curves"]["configurations"]
    assert len(c["trials"]) == 1


def test_several_launches_make_one_comparison(tmp_path: Path) -> None:
    for name in ("x/a", "x/b"):
        report_launches.build(tmp_path / name, ["agent.learning_rate=0.001,0.002"], 3, 4)
    report_launches.build(tmp_path / "x" / "c", ["agent.learning_rate=0.005"], 3, 4)
    paths = [tmp_path / "x" / name for name in ("a", "b", "c")]
    page = report.write(paths)
    assert page == tmp_path / "x" / "report.html"
    told = report_data.read(paths)
    names = {c.name for c in told.configurations}
    assert len(names) == 5 and {"a: cartpole_learning_rate=0.001", "b: cartpole_learning_rate=0.001"} <= names
    assert [launch.name for launch in told.launches] == ["a", "b", "c"]
    text = page.read_text()
    assert all(f"What was run: {name}" in text for name in "abc")
    assert "comparison" in tabs(page)


def test_launches_of_one_name_are_told_apart() -> None:
    folders = [Path("/runs/x/a"), Path("/runs/y/a"), Path("/runs/y/b")]
    assert report_data._launch_names(folders) == ["x/a", "y/a", "y/b"]


def test_tasks_are_not_compared_with_each_other(told: Report) -> None:
    first, *rest = told.configurations
    other = dataclasses.replace(first, settings={**first.settings, "env.id": "Acrobot-v1"})
    both = dataclasses.replace(told, configurations=[other, *rest])
    assert both.tasks == ["Acrobot-v1", "CartPole-v1"]
    panel = report._comparison(both)
    assert "returns-1" in panel.figures and "improvement-0" not in panel.figures
    assert len(panel.figures["improvement-1"]["data"][0]["z"]) == 5
    assert "Final returns: Acrobot-v1" in panel.markup


def test_launch_that_has_not_begun(tmp_path: Path) -> None:
    folder.create(tmp_path / "new", read_experiment([CARTPOLE], [], {}, "2").trials)
    page = report.write([tmp_path / "new"])
    assert tabs(page) == ["summary", "trials", "configurations"]
    assert "<b>Not finished:</b> 2 pending of 2 trials" in page.read_text()


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
        (["empty"], None, "empty: not a launch directory: it has no plan.json"),
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


def test_configuration_file_that_is_gone(tmp_path: Path) -> None:
    trials = report_launches.build(tmp_path / "a", ["agent.learning_rate=0.001,0.002"], 3, 4)
    (tmp_path / "a" / "trials" / trials[0].id / "config.yaml").write_text("a: [")
    (tmp_path / "a" / "trials" / trials[3].id / "config.yaml").unlink()
    told = report_data.read([tmp_path / "a"])
    assert [c.text for c in told.configurations] == ["", ""]
    assert len(tabs(report.write([tmp_path / "a"]))) >= 5


def test_import_is_light() -> None:
    code = (
        "import sys, launcher.report; "
        "found = {'plotly', 'matplotlib', 'ray', 'torch', 'jax', 'envpool', 'pandas'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_logs_that_are_elsewhere(launched: Path) -> None:
    standing = status.read(launched)
    lost = next(row for row in standing.rows if row.trial.state == "failed")
    away = {number: dataclasses.replace(row, log="logs/away.log") for number, row in standing.attempts.items()}
    failures = report_data._failures(dataclasses.replace(standing, attempts=away))
    assert failures[0].trials[0] == lost.trial.trial and failures[0].lines == []
    assert "is not on this machine" in failures[0].log
