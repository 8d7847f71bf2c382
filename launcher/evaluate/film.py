"""`launch eval --video N`: films of the best, the median and the worst seed of every configuration.

A film is made in a process of its own, one for each way to OpenGL until one works: MuJoCo looks for OpenGL among the
libraries that are loaded already, and ends the process where there is none.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from launcher.evaluate.batches import Candidate, Terms
from launcher.ledger.evaluations import Evaluation
from launcher.parts import grouped
from launcher.run.process import of_program
from runner.cores import usable_cores
from runner.errors import UserError
from runner.film.video import MOST_EPISODES, Job

LONGEST = 900.0
"""Seconds that a film may take."""


@dataclass(frozen=True)
class Platform:
    """A way to OpenGL: a name for people, `MUJOCO_GL`, and the system library to load first."""

    name: str
    mujoco_gl: str | None
    library: str | None


PLATFORMS = (
    Platform("EGL", "egl", "libEGL.so.1"),
    Platform("EGL with libGL", "egl", "libGL.so.1"),
    Platform("OSMesa", "osmesa", "libOSMesa.so.8"),
    Platform("OSMesa", "osmesa", "libOSMesa.so.6"),
    Platform("no OpenGL library", None, None),
)
"""In the order in which they are tried; tasks that MuJoCo does not draw need none."""


Roles = Sequence[tuple[str, Candidate]]
"""Checkpoints that are in a film together: best, median and worst, or one of no role."""


def choose(candidates: Iterable[Candidate], scores: Mapping[str, Evaluation]) -> Roles:
    """The best, the median and the worst of one configuration's seeds by the mean of their episodes.

    Of two seeds the best and the worst; one alone is called nothing. Those that were not evaluated do not count.
    """

    def rank(candidate: Candidate) -> tuple[float, int]:
        mean = float(np.mean(scores[candidate.sha256].returns))
        return (-mean if math.isfinite(mean) else math.inf, candidate.config.seed or 0)

    ranked = sorted((c for c in candidates if c.sha256 in scores), key=rank)
    if len(ranked) < 2:
        return [("", candidate) for candidate in ranked]
    middle = [("median", ranked[len(ranked) // 2])] if len(ranked) > 2 else []
    return [("best", ranked[0]), *middle, ("worst", ranked[-1])]


def casts(candidates: Sequence[Candidate], scores: Mapping[str, Evaluation], by_timestep: bool) -> dict[Path, Roles]:
    """A film, without its ending, and who is in it, per configuration, and per timestep if there are several."""
    groups = grouped(candidates, lambda one: (_folder(one), _name(one), one.timestep if by_timestep else 0))
    found = {}
    for (folder, name, _), group in groups.items():
        if roles := choose(group, scores):
            timesteps = sorted({candidate.timestep for _, candidate in roles})
            when = "-".join(map(str, dict.fromkeys([timesteps[0], timesteps[-1]])))
            found[folder / "videos" / f"{name}_{when}"] = roles
    return found


def _folder(candidate: Candidate) -> Path:
    return candidate.directory or candidate.path.absolute().parent


def _name(candidate: Candidate) -> str:
    return candidate.name if candidate.directory is not None else candidate.path.stem


def film(
    candidates: Sequence[Candidate],
    scores: Mapping[str, Evaluation],
    terms: Terms,
    episodes: int,
    by_timestep: bool = False,
    told: Callable[[str], None] = lambda text: None,
) -> tuple[list[Path], list[str]]:
    """Film the evaluation's first episodes, one configuration after the other; others where actions are samples.

    So many of each seed that is shown; with `by_timestep` a film for every timestep, as for `--every`. `told` is called
    with what is being done.

    Returns:
        The films, and why others could not be made, a sentence for each.
    """
    check(episodes)
    made, failures = [], []
    planned = casts(candidates, scores, by_timestep)
    for number, (path, roles) in enumerate(planned.items(), 1):
        told(f"film {number:,} of {len(planned):,}: {path.name}")
        try:
            made.append(record(_job(path, roles, terms, episodes)))
        except (UserError, OSError) as error:
            failures.append(f"{path}: {getattr(error, 'strerror', None) or error}")
    return made, failures


def check(episodes: int, candidates: Iterable[Candidate] = ()) -> None:
    """Refuse, before anything is evaluated, a number of episodes that is none, and folders that take no film."""
    if not 1 <= episodes <= MOST_EPISODES:
        raise UserError(f"command line: --video: found {episodes}; allowed: 1 to {MOST_EPISODES} episodes of each seed")
    for folder in dict.fromkeys(map(_folder, candidates)):
        if not os.access(folder, os.W_OK):
            raise UserError(
                f"command line: --video: films go to {folder / 'videos'}, and nothing may be written there; leave "
                "--video out, or copy the launch to where you may write"
            )


def _job(path: Path, roles: Roles, terms: Terms, episodes: int) -> Job:
    config = roles[0][1].config
    return Job(
        config=config.dump(),
        files=tuple(str(candidate.path.absolute()) for _, candidate in roles),
        labels=tuple(_label(role, candidate) for role, candidate in roles),
        episodes=episodes,
        seed=terms.seed,
        deterministic=terms.deterministic,
        path=str(path.absolute()),
        # Both play alike; torch has nothing to compile first.
        backend="torch" if config.backend == "auto" else config.backend,
        threads=usable_cores(),
    )


def _label(role: str, candidate: Candidate) -> str:
    return " · ".join(part for part in (f"seed {candidate.config.seed}", role) if part)


def record(job: Job, seconds: float = LONGEST, platforms: Sequence[Platform] = PLATFORMS) -> Path:
    """Make a film, within so many seconds, in a process of its own for each of the platforms until one works."""
    task = job.config["env"]["id"]
    tried = []
    with tempfile.TemporaryDirectory(prefix="sunflower-film-") as folder:
        for platform in platforms:
            try:
                result, words = _attempt(job, platform, Path(folder), seconds)
            except subprocess.TimeoutExpired:
                raise UserError(
                    f"{task} was not filmed within {seconds:,.0f} s: film fewer episodes, or an environment with a "
                    "smaller max_episode_steps"
                ) from None
            if result is None:
                tried.append(f"{platform.name}: {words}")
            elif "error" in result:
                raise UserError(result["error"])
            else:
                return Path(result["path"])
    raise UserError(
        f"{task} cannot be filmed on this machine. Tried {'; '.join(tried)}. MuJoCo draws with EGL or OSMesa: install "
        "libegl1 or libosmesa6 (apt install libegl1 libgl1 libosmesa6), or the NVIDIA driver's EGL"
    )


def _attempt(job: Job, platform: Platform, folder: Path, seconds: float) -> tuple[dict[str, str] | None, str]:
    """The result that the process left, and the last that it said."""
    preload = (platform.library,) if platform.library else ()
    task, result = folder / "job.json", folder / "result.json"
    task.write_text(json.dumps(asdict(replace(job, preload=preload))))
    variables = {name: value for name, value in of_program(job.threads).items() if name != "MUJOCO_GL"}
    if platform.mujoco_gl is not None:
        variables["MUJOCO_GL"] = platform.mujoco_gl
    done = subprocess.run(
        [sys.executable, "-m", "runner.film.video", str(task), str(result)],
        cwd=folder,  # some simulators write into the current folder
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    if result.is_file():
        return json.loads(result.read_text()), ""
    said = done.stdout.decode(errors="replace").strip()
    return None, said.splitlines()[-1][:300] if said else f"the process ended with status {done.returncode}"
