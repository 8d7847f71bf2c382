"""The real TensorBoard on a real launch: its runs, curves and the HParams tab, read back over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli.main import main
from launcher.ledger.ledger import Ledger
from runner.training.tracking import SCORE
from tests.launcher.faulty import PATIENCE, wait_until, write_config
from tests.launcher.local_ray import local_ray

pytestmark = pytest.mark.cluster

RATES = {"cartpole_learning_rate=0.001": 1e-3, "cartpole_learning_rate=1e+38": 1e38}
SEEDS = (3, 5)
ALL = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a launch of two configurations and seeds, one of which diverges."""

    folder = tmp_path_factory.mktemp("launch")
    config = write_config(folder, 256)
    data = yaml.safe_load(config.read_text())
    data["agent"]["grad_norm_clip"] = 0
    config.write_text(yaml.safe_dump(data))
    arguments = ["--seeds", "3,5", "--set", "agent.learning_rate=1e-3,1e38"]
    with local_ray(num_cpus=2) as address:
        assert main([str(config), *arguments, *address, "--out", str(folder), "--name", "one"]) == 1
    yield folder / "one"


@contextlib.contextmanager
def served(directory: Path, *options: str) -> Iterator[Ask]:
    """`tensorboard --logdir` with this directory's events, and how to ask it for a path, with a body or without."""
    where = ["--logdir", str(directory / "tensorboard"), "--host", "127.0.0.1", "--port", "0"]
    program = [sys.executable, "-m", "tensorboard.main", *where, "--reload_interval", "1", *options]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = (re.search(r" at (http://\S+/) ", line) for line in server.stderr)
            url = next(found[1] for found in said if found)

            def ask(path: str, body: dict[str, Any] | None = None) -> Any:
                data = None if body is None else json.dumps(body).encode()
                request = urllib.request.Request(url + "data/" + path, data, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    return json.load(answer)

            yield ask
        finally:
            server.terminate()


def until(found: Callable[[], Any], what: Callable[[Any], bool]) -> Any:
    """What is found once it is as wanted."""
    return wait_until(lambda: [answer] if what(answer := found()) else [], "what TensorBoard shows")[0]


@pytest.mark.parametrize("loader", ["true", "false"])
def test_a_person_finds_configurations_seeds_and_metrics(launch: Path, loader: str) -> None:
    request = {"experimentName": "", "allowedStatuses": ALL, "startIndex": 0, "sliceSize": 100}
    with served(launch, f"--load_fast={loader}") as ask:

        def rows() -> list[dict[str, Any]]:
            groups: list[dict[str, Any]] = ask("plugin/hparams/session_groups", request).get("sessionGroups", [])
            return groups

        groups = until(rows, lambda groups: len(groups) == 4)
        runs = until(lambda: ask("runs"), lambda runs: len(runs) == 8)
        tags = ask("plugin/scalars/tags")
        experiment = ask("plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True})

    trials = {f"{config}/seed_{seed}": (config, seed) for config in RATES for seed in SEEDS}
    assert sorted(runs) == sorted([*trials, *(f"{config}/{name}" for config in RATES for name in ("mean", "iqm"))])
    assert tags.keys() == set(runs)
    assert all(SCORE in found for run, found in tags.items() if "0.001" in run)
    assert {info["name"] for info in experiment["hparamInfos"]} == {"configuration", "agent.learning_rate", "seed"}
    assert all(info["differs"] for info in experiment["hparamInfos"])
    assert SCORE in [info["name"]["tag"] for info in experiment["metricInfos"]]

    assert {group["name"]: group["hparams"] for group in groups} == {
        name: {"configuration": config, "agent.learning_rate": RATES[config], "seed": seed}
        for name, (config, seed) in trials.items()
    }
    with Ledger(launch, writer=False) as ledger:
        scores = {f"{row.trial.config}/seed_{row.trial.seed}": row.value for row in ledger.progress(SCORE)}
    for group in groups:
        shown = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert shown.get(SCORE) == (None if scores[group["name"]] is None else pytest.approx(scores[group["name"]]))
