"""`launch eval`: let any number of checkpoints play the same episodes, in batches, and keep what they scored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation
from launcher.ledger.ledger import reading
from launcher.ledger.storage import REFUSED, disk_refuses
from launcher.plan import directory as folder
from launcher.plan.experiment import Placement
from launcher.run.failures import words_of
from launcher.run.pool import Process, Processes, first_ended
from launcher.run.process import EvaluationJob
from runner.checkpoints import checkpoint
from runner.config import Config, resolve
from runner.envs.named import imports
from runner.errors import UserError
from runner.training.evaluate import Episode
from runner.training.pack import policy_key

Which = Literal["last", "best", "every"]

POOL = 6400
"""Environments that one worker steps together: more gain nothing on a CPU, and simulators take memory."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to evaluate.

    Attributes:
        directory: of its launch; None for a file that is in none.
        trial: its trial, or the file's path.
        name: of its configuration.
        timestep: at which it was made.
        path: of its file.
        sha256: of its bytes.
        config: its trial's, with the environment to evaluate in.
    """

    directory: Path | None
    trial: str
    name: str
    timestep: int
    path: Path
    sha256: str
    config: Config


@dataclass(frozen=True)
class Terms:
    """Which episodes are played: those of environments seeded from `seed`, in the environment that the trial names."""

    episodes: int
    seed: int
    deterministic: bool
    env: str | None
    num_envs: int | None

    @property
    def at_once(self) -> int:
        """Environments of one checkpoint that are stepped together."""
        return min(self.num_envs or POOL, self.episodes)

    def settings(self, config: Config) -> str:
        """Canonical text of what decides a checkpoint's episodes: the key under which they are kept."""
        env = {name: value for name, value in config.dump()["env"].items() if name != "num_envs"}
        parts: dict[str, Any] = {"env": env, "episodes": self.episodes, "seed": self.seed}
        parts["deterministic"] = self.deterministic
        if not self.deterministic:
            parts["at_once"] = self.at_once  # samples are drawn for all environments together
        return json.dumps(parts, sort_keys=True)


def find(paths: Sequence[Path], which: Which, terms: Terms) -> list[Candidate]:
    """The checkpoints of launch directories, and files.

    Raises:
        UserError: neither, damaged, or no checkpoint at all.
    """
    found = [candidate for path in paths for candidate in _at(path, which)]
    if not found:
        what = "best agents" if which == "best" else "checkpoints"
        raise UserError(f"{', '.join(map(str, paths))}: no {what} have been published yet")
    found = list({(candidate.directory, candidate.trial, candidate.sha256): candidate for candidate in found}.values())
    for launch in {candidate.directory for candidate in found if candidate.directory is not None}:
        folder.allow_recorded(launch)
    found = found if terms.env is None else _moved(found, terms.env)
    for candidate in found:
        for module in imports.module_of(candidate.config.env.id):
            imports.check(module, f"{candidate.path}: env.id: {candidate.config.env.id}")
    return found


def _at(path: Path, which: Which) -> Iterator[Candidate]:
    if path.is_file():
        data = checkpoint.read_file(path)
        metadata = checkpoint.read_metadata(data, str(path))
        try:
            config = resolve(json.loads(metadata["config"]))[0]
            timestep = int(json.loads(metadata["counters"])["timestep"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged: {type(error).__name__}: {error}") from None
        launch = folder.launch_of(path)
        trial = path.absolute().relative_to(launch / "trials").parts[0] if launch is not None else str(path)
        name = trial.rsplit("_s", 1)[0] if launch is not None else trial
        yield Candidate(launch, trial, name, timestep, path, hashlib.sha256(data).hexdigest(), config)
        return
    path = path.absolute()
    with reading(path) as ledger:
        for each in folder.trials_of(ledger):
            files = ledger.checkpoints(each.id)
            chosen = [file for file in files if file.kind == ("best" if which == "best" else "agent")]
            for file in chosen if which == "every" else chosen[-1:]:
                yield Candidate(path, each.id, each.name, file.timestep, path / file.path, file.sha256, each.config)


def _moved(candidates: Sequence[Candidate], env: str) -> list[Candidate]:
    """The same checkpoints in another environment, for which their networks must be made.

    Raises:
        UserError: it is unknown, or a checkpoint's network would be another there.
    """
    configs: dict[str, Config] = {}
    for candidate in candidates:
        config, key = candidate.config, policy_key(candidate.config)
        if key in configs:
            continue
        configs[key] = config.model_copy(update={"env": config.env.model_copy(update={"id": env})})
        try:
            there, here = (_shapes(one) for one in (configs[key], config))
        except UserError as error:
            raise UserError(f"command line: --env {env}: {candidate.name} cannot play there: {error}") from None
        if there != here:
            name = next(name for name in {**here, **there} if here.get(name) != there.get(name))
            found, wanted = (list(shapes[name]) if name in shapes else "not there" for shapes in (here, there))
            raise UserError(
                f"command line: --env {env}: {candidate.name} cannot play there: it was trained in {config.env.id}, "
                f"where {name} is {found}; in {env} it would be {wanted}"
            )
    return [replace(candidate, config=configs[policy_key(candidate.config)]) for candidate in candidates]


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Parameter → shape, of a configuration's networks in its environment."""
    from runner.envs.task import task
    from runner.networks.parameters import Network

    env = task(config.env)
    env.close()
    return {entry.name: entry.shape for entry in Network.of(config, env.layout, env.actions).entries}


def known(candidates: Sequence[Candidate], terms: Terms) -> dict[str, Evaluation]:
    """Of those that were evaluated before on the same terms, what they scored, by sha256."""
    wanted = {(c.sha256, terms.settings(c.config)) for c in candidates}
    return {
        found.sha256: found
        for directory in {c.directory for c in candidates if c.directory is not None}
        for found in evaluations.read(directory)
        if (found.sha256, found.settings) in wanted
    }


def batches(candidates: Sequence[Candidate], terms: Terms, workers: int) -> list[list[Candidate]]:
    """Deal checkpoints of equal policy into batches that one pool takes, at least one for every worker."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(policy_key(candidate.config), []).append(candidate)
    dealt = []
    for group in groups.values():
        count = max(min(workers, len(group)), math.ceil(len(group) / max(1, POOL // terms.at_once)))
        ends = [math.ceil(len(group) * index / count) for index in range(count + 1)]
        dealt += [group[start:end] for start, end in pairwise(ends)]
    return dealt


def run(
    work: Sequence[Sequence[Candidate]],
    terms: Terms,
    placement: Placement,
    done: Callable[[list[Evaluation]], None],
) -> list[str]:
    """Evaluate batches on the Ray that this process is connected to; every batch is stored when it is there.

    Args:
        work: batches of equal policy.
        terms: of all.
        placement: how many at a time, on what.
        done: called with what a batch scored, after it was stored.

    Returns:
        Why checkpoints could not be evaluated, a sentence for each.
    """
    import ray

    processes = Processes(placement, min(len(work), placement.workers))
    waiting, failures = [list(batch) for batch in work], []
    running: dict[Any, tuple[Process, list[Candidate]]] = {}

    def begin(batch: list[Candidate]) -> None:
        files = []
        for candidate in list(batch):
            try:
                files.append(_read(candidate))
            except UserError as error:
                batch.remove(candidate)
                failures.append(str(error))
        if batch:
            process = processes.take(placement.backend(batch[0].config), placement.workers - len(running))
            threads = max(1, placement.cpus)
            config, played = batch[0].config.dump(), (terms.episodes, terms.at_once, terms.seed, terms.deterministic)
            job = EvaluationJob(config, tuple(files), *played, threads)
            running[process.worker.evaluate.remote(job)] = process, batch

    try:
        while waiting or running:
            while waiting and len(running) < placement.workers:
                begin(waiting.pop(0))
            if not running:
                break
            future = first_ended({future: process for future, (process, _) in running.items()})
            process, batch = running.pop(future)
            try:
                ray.get(process.ready)  # why it could not start is told by nothing else
                played = ray.get(future)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", error)
                if isinstance(cause, UserError):
                    processes.give(placement.backend(batch[0].config), process)
                else:
                    ray.kill(process.worker)
                if len(batch) > 1:
                    # One of them cannot be evaluated, or all together do not fit: alone each has its own fate.
                    waiting += [[candidate] for candidate in batch]
                else:
                    failures.append(f"{batch[0].path}: {words_of(cause)}")
                continue
            processes.give(placement.backend(batch[0].config), process)
            done(_store(batch, terms, played, failures))
    finally:
        processes.end()
        for process, _ in running.values():
            ray.kill(process.worker)
    return failures


def _read(candidate: Candidate) -> bytes:
    """The bytes that a candidate is known by.

    Raises:
        UserError: they are gone, or others: a running launch replaces its best agents.
    """
    data = checkpoint.read_file(candidate.path)
    if hashlib.sha256(data).hexdigest() != candidate.sha256:
        raise UserError(f"{candidate.path}: was replaced meanwhile; evaluate again, or it is damaged")
    return data


def _store(
    batch: Sequence[Candidate], terms: Terms, played: Sequence[Sequence[Episode]], failures: list[str]
) -> list[Evaluation]:
    """Keep what a batch scored in the launches that it is of, as far as they may be written to."""
    found = [_evaluation(candidate, terms, episodes) for candidate, episodes in zip(batch, played, strict=True)]
    for directory in {candidate.directory for candidate in batch if candidate.directory is not None}:
        if evaluations.can_keep(directory):
            try:
                evaluations.add(directory, [e for e, c in zip(found, batch, strict=True) if c.directory == directory])
            except REFUSED as error:
                if not disk_refuses(error):
                    raise
                failures.append(f"{directory}: what was played is shown, but could not be kept: {error}")
    return found


def _evaluation(candidate: Candidate, terms: Terms, episodes: Sequence[Episode]) -> Evaluation:
    return Evaluation(
        candidate.sha256,
        terms.settings(candidate.config),
        candidate.trial,
        candidate.timestep,
        tuple(episode.ret for episode in episodes),
        tuple(episode.length for episode in episodes),
        tuple(episode.seed for episode in episodes),
    )
