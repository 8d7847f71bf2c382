"""The report in a real browser: what is drawn, what a click does, on a phone, on paper, how large and how soon."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import report
from launcher.ledger.ledger import Ledger
from tests.launcher import report_launches
from tests.launcher.report_launches import EVIL, MORE

pytestmark = pytest.mark.cluster

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
RATES = "agent.learning_rate=0.001,0.003,0.01"
LOSSES = "agent.entropy_loss_scale=0.0,0.01"
CURVES = "#curve"
MIDDLE = "(t) => !t.thin && t.mode === 'lines' && t.hovertemplate"
"""A trace that is the line of a configuration, not its band or marks."""
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is found: none of {', '.join(NAMES)} is on the PATH and CHROME is not set")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "sweep"
    fates = {(0, 1): "failed", (1, 0): "diverged", (5, 2): "running"}
    trials = report_launches.build(path, [RATES, LOSSES], 4, 12, fates, MORE[:2], f"MemoryError {EVIL}\n" * 60)
    report_launches.evaluate(path, trials[:8])
    with Ledger(path) as ledger:
        texts = {trial: json.loads(text) for trial, text in ledger.configurations().items()}
        ledger.extend({}, {trial.id: json.dumps(texts[trial.id] | {"note": EVIL}) for trial in trials[:4]})
    return report.write([path])


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    """Opens a page of a width and theme; at the end nothing has gone wrong in it or left it."""
    wrong: list[str] = []
    contexts = []

    def open_page(path: Path, width: int = 1280, theme: str = "light") -> Any:
        phone = width < 500
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=theme, has_touch=phone, is_mobile=phone
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def names(page: Any) -> list[str]:
    return [tab.get_attribute("data-tab") for tab in page.query_selector_all("[role=tab]")]


def lines(page: Any) -> int:
    """Configurations whose line is drawn."""
    return int(page.evaluate(f"document.querySelector('{CURVES}').data.filter({MIDDLE}).length"))


def text_colour(page: Any) -> str:
    return str(page.evaluate(f"document.querySelector('{CURVES}')._fullLayout.font.color"))


def test_tabs_show_one_panel_and_draw_it_then(opened: Opened, page_file: Path) -> None:
    page = opened(page_file)
    assert page.query_selector(".main-svg") is None
    assert page.is_visible("#summary") and not page.is_visible("#curves")
    assert len(names(page)) == 9
    for name in names(page):
        page.click(f"[data-tab={name}]")
        assert [panel for panel in names(page) if page.is_visible(f"#{panel}")] == [name]
        plots = page.query_selector_all(f"#{name} .plot")
        assert all(plot.query_selector(".main-svg") for plot in plots)
        expected = {"curves": 1, "comparison": 1, "sweep": 2, "evaluation": 1, "throughput": 1}
        assert len(plots) >= expected.get(name, 0)
    page.keyboard.press("ArrowLeft")
    assert page.is_visible("#trials") and not page.is_visible("#configurations")
    page.click("[data-tab=summary]")
    page.click("text=Why, and their logs")
    assert page.is_visible("#failures") and page.is_visible(f"text=MemoryError {EVIL}")
    page.reload()
    assert [panel for panel in names(page) if page.is_visible(f"#{panel}")] == ["summary"]


@pytest.fixture(scope="module")
def curves(browser: Any, page_file: Path) -> Any:
    """The tab of the learning curves, as tests leave it to each other: everything shown, seeds on hover."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{page_file.as_uri()}#curves")
    assert page.is_visible("#curves")
    return page


def test_legend_hides_and_shows_a_configuration(curves: Any) -> None:
    page = curves
    assert lines(page) == 6
    second = "#legend button:nth-child(2)"
    page.click(second)
    assert lines(page) == 5 and page.get_attribute(second, "aria-pressed") == "false"
    page.click(second)
    assert lines(page) == 6 and page.get_attribute(second, "aria-pressed") == "true"
    page.dblclick(second)
    assert lines(page) == 1
    page.dblclick(second)
    assert lines(page) == 6
    legend = page.inner_text("#legend")
    assert "1 failed" in legend and "1 diverged" in legend


def test_seeds_on_hover_and_all_and_metrics(curves: Any) -> None:
    page = curves
    page.hover("h1")
    seeds = f"document.querySelector('{CURVES}').data.filter((trace) => trace.thin).length"
    assert page.evaluate(seeds) == 0
    page.hover("#legend button:nth-child(1)")
    assert page.evaluate(seeds) == 4
    page.hover("h1")
    assert page.evaluate(seeds) == 0
    traces = f"document.querySelector('{CURVES}').data.length"
    before = page.evaluate(traces)
    page.select_option("#seeds", "all")
    assert page.evaluate(traces) == before + 6 * 4
    # The return has bands, 6 of them, and marks where two trials were lost.
    page.select_option("#seeds", "none")
    page.select_option("#metric", label="Loss / Number 1")
    assert page.evaluate(traces) == before - 8 and lines(page) == 6
    assert "Loss / Number 1" in page.inner_html(CURVES)
    page.select_option("#metric", "0")
    page.select_option("#seeds", "hover")


def test_pointing_at_a_line_shows_its_seeds_and_keeps_its_label(curves: Any) -> None:
    page = curves
    place = page.evaluate(
        f"""(() => {{ const plot = document.querySelector('{CURVES}'), box = plot.getBoundingClientRect();
        const {{ xaxis, yaxis }} = plot._fullLayout;
        const {{ x, y }} = plot.calcdata.find((points) => points[0].trace.meta === 0 && points[0].trace.text)[8];
        return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)]; }})()"""
    )
    page.mouse.move(place[0] - 40, place[1] - 5)
    page.mouse.move(*place)
    page.wait_for_function(f"document.querySelector('{CURVES}').data.some((trace) => trace.thin)")
    page.wait_for_selector(f"{CURVES} .hovertext")
    assert "of 4 seeds, 95% interval" in page.text_content(f"{CURVES} .hoverlayer")


def test_tables_are_sorted_by_a_click(curves: Any) -> None:
    page = curves
    page.click("[data-tab=trials]")
    header = "#trials th:nth-child(4)"

    def column() -> list[float]:
        cells = page.eval_on_selector_all("#trials td:nth-child(4)", "(cells) => cells.map((c) => c.dataset.v)")
        return [float(cell) for cell in cells if cell is not None]

    page.click(header)
    assert column() == sorted(column(), reverse=True) and len(column()) == 24
    page.click(header)
    assert column() == sorted(column())


def test_light_and_dark(opened: Opened, page_file: Path) -> None:
    page = opened(page_file, theme="dark")
    page.click("[data-tab=curves]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert text_colour(page) == "#e7eaee"
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert text_colour(page) == "#1a1d21"


def test_nothing_is_wider_than_a_phone(opened: Opened, page_file: Path) -> None:
    page = opened(page_file, 390)
    for name in names(page):
        page.click(f"[data-tab={name}]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        # A text that wraps beyond the edge would leave tall rows that look empty.
        rows = page.evaluate("[...document.querySelectorAll('table:not(.key) tr')].map((row) => row.offsetHeight)")
        assert max(rows) <= 60, name
        edge = page.evaluate("Math.max(...[...document.querySelectorAll('.plot')].map((p) => p.clientWidth))")
        assert edge <= 600


def test_a_legend_of_twelve_is_whole(opened: Opened, tmp_path: Path) -> None:
    trials = report_launches.build(tmp_path / "twelve", [RATES, "agent.entropy_loss_scale=0.0,0.01,0.02,0.03"], 1, 4)
    report_launches.evaluate(tmp_path / "twelve", trials)
    path = report.write([tmp_path / "twelve"])
    for width in (400, 1280):
        page = opened(path, width)
        for tab, entries in (("curves", ".legend button"), ("evaluation", ".legend > span")):
            page.click(f"[data-tab={tab}]")
            assert len(page.query_selector_all(f"#{tab} {entries}")) == 12
            legend = f"document.querySelector('#{tab} .legend')"
            assert page.evaluate(f"{legend}.scrollHeight <= {legend}.clientHeight")
            inside = f"[...{legend}.children].every((one) => one.getBoundingClientRect().right <= {width})"
            assert page.evaluate(inside)


def test_paper_has_every_panel_on_white(opened: Opened, page_file: Path) -> None:
    page = opened(page_file, theme="dark")
    page.click("[data-tab=sweep]")
    assert page.pdf().startswith(b"%PDF")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert all(page.is_visible(f"#{name}") for name in names(page)) and not page.is_visible("nav")
    assert page.evaluate("[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))")
    assert text_colour(page) == "#1a1d21"
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert [name for name in names(page) if page.is_visible(f"#{name}")] == ["sweep"]
    assert text_colour(page) == "#e7eaee"


def test_hundred_trials_of_a_thousand_points(opened: Opened, tmp_path: Path) -> None:
    """At most 10 s to write, 8 MB, and 3 s to open and draw; seconds of processors, since tests share theirs."""
    rates = "agent.learning_rate=1e-4..1e-2/10"
    report_launches.build(tmp_path / "large", [rates], 10, 1000, {(2, 1): "diverged"}, MORE)
    began = time.process_time()
    path = report.write([tmp_path / "large"])
    assert time.process_time() - began <= 10
    assert path.stat().st_size <= 8e6
    assert min(_seconds_to_draw(opened, path) for _ in range(2)) <= 3


def _seconds_to_draw(opened: Opened, path: Path) -> float:
    """Of the page's main thread, until the learning curves are there."""
    page = opened(Path(os.devnull))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri())
    page.click("[data-tab=curves]")
    page.wait_for_selector(f"{CURVES} .main-svg")
    assert lines(page) == 10
    found = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    page.close()
    assert found["TaskDuration"] > 0
    return float(found["TaskDuration"])
