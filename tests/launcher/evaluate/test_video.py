"""Who is filmed; and films made in processes of their own, `pytest -m cluster`."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from launcher.evaluate import film as video
from launcher.evaluate.batches import Candidate, Terms
from launcher.evaluate.film import PLATFORMS, Platform, casts, choose, film, record
from launcher.ledger.evaluations import Evaluation
from runner.envs.envpool import EnvPoolTask
from runner.errors import UserError
from runner.film.video import Job
from tests.runner.builders import make_config, runner_class

TERMS = Terms(2, 0, True, None, None)
NO_OPENGL = Platform("nothing", None, None)
NO_LIBRARY = Platform("missing", "egl", "libNoSuchThing.so.7")


def candidate(seed: int, directory: Path | None = Path("/run"), name: str = "a", timestep: int = 64) -> Candidate:
    config = make_config({"env.id": "CartPole-v1", "env.num_envs": 4, "seed": seed}, "CategoricalMixin")
    path = (
        (directory or Path("/loose")) / "trials" / f"{name}_s{seed}" / "checkpoints" / f"agent_{timestep}.safetensors"
    )
    return Candidate(directory, f"{name}_s{seed}", name, timestep, path, f"{name}{seed}{timestep}", config)


def scored(*pairs: tuple[Candidate, float]) -> dict[str, Evaluation]:
    return {
        c.sha256: Evaluation(c.sha256, "", c.trial, c.timestep, (mean - 1, mean + 1), (1, 1), (1, 2))
        for c, mean in pairs
    }


def chosen(*means: float) -> list[tuple[str, int | None]]:
    candidates = [candidate(seed) for seed in range(len(means))]
    found = choose(candidates, scored(*zip(candidates, means, strict=True)))
    return [(role, one.config.seed) for role, one in found]


def test_the_best_the_median_and_the_worst_seed_are_chosen() -> None:
    assert chosen(5, 9, 1, 7, 3) == [("best", 1), ("median", 0), ("worst", 2)]
    assert chosen(4, 4, 4) == [("best", 0), ("median", 1), ("worst", 2)]
    assert chosen(1, 2) == [("best", 1), ("worst", 0)]
    assert chosen(1) == [("", 0)]
    assert chosen() == []
    assert chosen(1, math.nan, 2)[-1] == ("worst", 1)


def test_what_was_not_evaluated_is_not_filmed() -> None:
    candidates = [candidate(seed) for seed in range(3)]
    scores = scored((candidates[2], 1.0))
    assert choose(candidates, scores) == [("", candidates[2])]
    assert casts(candidates[:2], scores, False) == {}


def test_there_is_a_film_per_configuration_and_timestep() -> None:
    candidates = [candidate(s, name=n, timestep=t) for n in ("a", "b") for s in (1, 2) for t in (64, 128)]
    scores = scored(*((one, one.timestep + (one.config.seed or 0)) for one in candidates))
    several = casts(candidates, scores, True)
    assert list(map(str, several)) == [f"/run/videos/{n}_{t}" for n in ("a", "b") for t in (64, 128)]
    assert [(role, one.trial) for role, one in several[Path("/run/videos/a_64")]] == [
        ("best", "a_s2"),
        ("worst", "a_s1"),
    ]
    # The best agents of seeds are of different timesteps.
    mixed = casts([candidates[0], candidates[3]], scores, False)
    assert [path.name for path in mixed] == ["a_64-128"]
    (loose,) = casts([candidate(1, None)], scores, False)
    assert loose == Path("/loose/trials/a_s1/checkpoints/videos/agent_64_64")


@pytest.mark.parametrize("episodes", [0, -1, 13])
def test_the_number_of_episodes_is_checked(episodes: int) -> None:
    with pytest.raises(UserError, match=rf"--video: found {episodes}; allowed: 1 to 12"):
        film([], {}, TERMS, episodes)


def test_a_film_that_fails_is_a_sentence_and_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [candidate(seed, name=name) for name in ("a", "b") for seed in (1, 2, 3)]
    jobs: list[Job] = []

    def recorded(job: Job) -> Path:
        jobs.append(job)
        if len(jobs) == 1:
            raise UserError("no OpenGL here")
        return Path(f"{job.path}.mp4")

    monkeypatch.setattr(video, "record", recorded)
    told: list[str] = []
    made, failures = film(
        candidates, scored(*((c, float(c.config.seed or 0)) for c in candidates)), TERMS, 2, False, told.append
    )
    assert made == [Path("/run/videos/b_64.mp4")]
    assert failures == ["/run/videos/a_64: no OpenGL here"]
    assert told == ["film 1 of 2: a_64", "film 2 of 2: b_64"]
    assert jobs[0].labels == ("seed 3 · best", "seed 2 · median", "seed 1 · worst")
    assert (jobs[0].episodes, jobs[0].seed, jobs[0].deterministic, jobs[0].backend) == (2, 0, True, "torch")


def make_job(folder: Path, task: str, policy: str, **changes: Any) -> Job:
    config = make_config({"env.id": task, "env.num_envs": 2, "env.max_episode_steps": 10, **changes}, policy)
    runner = runner_class("torch")(EnvPoolTask(task, 2, config.env.arguments), config, [1], threads=1)
    path = folder / "agent.safetensors"
    runner.agent.save(path)
    return Job(config.dump(), (str(path),), ("seed 1",), 1, 0, True, str(folder / "videos" / "film"), "torch")


def first_picture(path: Path) -> Image.Image:
    if path.suffix == ".gif":
        return Image.open(path).convert("RGB")
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return next(frame.to_image() for frame in container.decode(video=0))


@pytest.mark.cluster
def test_a_film_of_every_configuration_is_made_in_a_process_of_its_own(tmp_path: Path) -> None:
    candidates = [candidate(seed, tmp_path) for seed in (1, 2, 3)]
    for one in candidates:
        one.path.parent.mkdir(parents=True)
        runner_class("torch")(EnvPoolTask("CartPole-v1", 4), one.config, [one.config.seed or 0], threads=1).agent.save(
            one.path
        )
    scores = scored(*((one, float(one.config.seed or 0)) for one in candidates))
    (path,), failures = film(candidates, scores, TERMS, 2)
    assert failures == []
    assert path.parent == tmp_path / "videos" and path.stem == "a_64"
    width, height = first_picture(path).size
    assert width > 600 and height > 600


@pytest.mark.cluster
def test_a_platform_without_its_library_is_passed_over(tmp_path: Path) -> None:
    job = make_job(tmp_path, "CartPole-v1", "CategoricalMixin")
    assert record(job, platforms=[NO_LIBRARY, NO_OPENGL]).is_file()


@pytest.mark.cluster
def test_a_task_that_is_not_drawn_is_tried_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, "FrozenLake-v1", "CategoricalMixin")
    with pytest.raises(UserError, match="FrozenLake-v1 cannot be filmed: EnvPool does not draw this task"):
        record(job, platforms=[NO_OPENGL, *PLATFORMS])


@pytest.mark.cluster
def test_a_process_that_mujoco_ends_is_a_clear_message(tmp_path: Path) -> None:
    job = make_job(tmp_path, "HalfCheetah-v4", "GaussianMixin")
    words = r"HalfCheetah-v4 cannot be filmed on this machine. Tried missing: .*libNoSuchThing.*; nothing: .*OpenGL.*"
    with pytest.raises(UserError, match=words + r" MuJoCo draws with EGL or OSMesa: install libegl1 or libosmesa6"):
        record(job, platforms=[NO_LIBRARY, NO_OPENGL])
    assert not (tmp_path / "videos").exists()


@pytest.mark.cluster
def test_mujoco_is_filmed_or_says_what_is_missing(tmp_path: Path) -> None:
    job = make_job(tmp_path, "HalfCheetah-v4", "GaussianMixin")
    try:
        path = record(job)
    except UserError as error:
        assert "install libegl1 or libosmesa6" in str(error)
    else:
        assert len(first_picture(path).getcolors(2**24) or []) > 50


@pytest.mark.cluster
def test_a_film_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    job = make_job(tmp_path, "CartPole-v1", "CategoricalMixin")
    with pytest.raises(UserError, match=r"CartPole-v1 was not filmed within 0 s: film fewer episodes"):
        record(dataclasses.replace(job, threads=1), seconds=0.2)
