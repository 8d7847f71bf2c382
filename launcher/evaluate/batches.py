"""`launch eval`: let any number of checkpoints play the same episodes, in batches, and keep what they scored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation
from launcher.ledger.ledger import reading
from launcher.ledger.storage import REFUSED, disk_refuses
from launcher.parts import evenly, grouped
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

POOL, OF_PYTHON, OF_FOOTBALL = 6400, 256, 100
"""Environments that one worker steps together: more gain nothing on a CPU, and simulators take memory; of Python's
fewer, since each takes time to be made, too, and of EnvPool's football, which keeps 50 MB of each for good."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to evaluate: of a trial, or a file that is in no launch, whose path is then its trial and name.

    It is known by the digest of its bytes; `config` is its trial's, with the environment to evaluate in.
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
    """The episodes that are played: of environments seeded from `seed`, in `env` or the one that the trial names."""

    episodes: int
    seed: int
    deterministic: bool
    env: str | None
    num_envs: int | None

    def at_once(self, config: Config) -> int:
        """Environments of one checkpoint that are stepped together."""
        return min(self.num_envs or _pool(config), self.episodes)

    def settings(self, config: Config) -> str:
        """A canonical text of all that decides a checkpoint's episodes: the key under which they are kept."""
        env = {name: value for name, value in config.dump()["env"].items() if name != "num_envs"}
        parts: dict[str, Any] = {"env": env, "episodes": self.episodes, "seed": self.seed}
        parts["deterministic"] = self.deterministic
        if not self.deterministic:
            parts["at_once"] = self.at_once(config)  # samples are drawn for all environments together
        return json.dumps(parts, sort_keys=True)


def find(paths: Sequence[Path], which: Which, terms: Terms) -> list[Candidate]:
    """The checkpoints of launch directories, and files."""
    found = [candidate for path in paths for candidate in _at(path, which)]
    if not found:
        what = "best agents" if which == "best" else "checkpoints"
        raise UserError(f"{', '.join(map(str, paths))}: no {what} have been published yet")
    found = list({(candidate.directory, candidate.trial, candidate.sha256): candidate for candidate in found}.values())
    for launch in {candidate.directory for candidate in found if candidate.directory is not None}:
        folder.allow_recorded(launch)
    found = found if terms.env is None else _moved(found, terms.env)
    for candidate in found:
        if candidate.config.env.id is None:
            raise UserError(f"{candidate.path}: its environment had no name; say which to play in: --env ID")
        for module in imports.module_of(candidate.config.env.id):
            imports.check(module, f"{candidate.path}: env.id: {candidate.config.env.id}")
    return found


def _at(path: Path, which: Which) -> Iterator[Candidate]:
    if path.is_file() or path.suffix == ".safetensors":
        data = checkpoint.read_file(path)
        metadata = checkpoint.read_metadata(data, str(path))
        try:
            config = resolve(json.loads(metadata["config"]))[0]
            timestep = checkpoint.timestep(data, str(path))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged: {type(error).__name__}: {error}") from None
        launch = folder.launch_of(path)
        trial = path.absolute().relative_to(launch / "trials").parts[0] if launch is not None else str(path)
        name = trial.rsplit("_s", 1)[0] if launch is not None else trial
        yield Candidate(launch, trial, name, timestep, path, hashlib.sha256(data).hexdigest(), config)
        return
    if written := list(_of_a_runner(path, which)):
        for one in written:
            yield from _at(one, which)
        return
    path = path.absolute()
    with reading(path) as ledger:
        for each in folder.trials_of(ledger):
            files = ledger.checkpoints(each.id)
            chosen = [file for file in files if file.kind == ("best" if which == "best" else "agent")]
            for file in chosen if which == "every" else chosen[-1:]:
                yield Candidate(path, each.id, each.name, file.timestep, path / file.path, file.sha256, each.config)


def _of_a_runner(path: Path, which: Which) -> Iterator[Path]:
    """Checkpoints in a directory that `run("train")` wrote."""
    pattern = "best_agent" if which == "best" else "agent_*"
    for member in (path, *sorted(path.glob("seed_*"))):
        found = (member / "checkpoints").glob(f"{pattern}.safetensors")
        files = sorted(found, key=lambda file: (len(file.name), file.name))
        yield from files if which == "every" else files[-1:]


def _moved(candidates: Sequence[Candidate], env: str) -> list[Candidate]:
    """The same checkpoints in another environment, for which their networks must be made."""
    configs: dict[str, Config] = {}
    for candidate in candidates:
        config, key = candidate.config, policy_key(candidate.config)
        if key in configs:
            continue
        configs[key] = config.model_copy(update={"env": config.env.model_copy(update={"id": env})})
        try:
            there = _shapes(configs[key])
            # Where the environment had no name, reading the file will tell.
            here = there if config.env.id is None else _shapes(config)
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
    from runner.envs.agents.fitting import fitted
    from runner.envs.task import task
    from runner.networks.parameters import Network

    env = fitted(task(config.env), config)
    env.close()
    return {entry.name: entry.shape for entry in Network.of(config, env.layout, env.actions).entries}


def known(candidates: Sequence[Candidate], terms: Terms) -> dict[str, Evaluation]:
    """Scores of those that were evaluated before on the same terms, by sha256."""
    wanted = {(c.sha256, terms.settings(c.config)) for c in candidates}
    return {
        found.sha256: found
        for directory in {c.directory for c in candidates if c.directory is not None}
        for found in evaluations.read(directory)
        if (found.sha256, found.settings) in wanted
    }


def _pool(config: Config) -> int:
    if str(config.env.id).startswith("gfootball/"):
        return OF_FOOTBALL
    return OF_PYTHON if config.env.of_python else POOL


def batches(candidates: Sequence[Candidate], terms: Terms, workers: int) -> list[list[Candidate]]:
    """Deal checkpoints of equal policy into batches that one pool takes, at least one for every worker."""
    dealt = []
    for group in grouped(candidates, lambda one: policy_key(one.config)).values():
        config = group[0].config
        together = max(1, _pool(config) // terms.at_once(config))  # checkpoints of one worker
        count = max(min(workers, len(group)), math.ceil(len(group) / together))
        dealt += evenly(group, count)
    return dealt


def run(
    work: Sequence[Sequence[Candidate]],
    terms: Terms,
    placement: Placement,
    done: Callable[[list[Evaluation]], None],
) -> list[str]:
    """Evaluate batches on the Ray that this process is connected to.

    Every batch is stored when it is there, and `done` is called with what it scored.

    Returns:
        Why checkpoints could not be evaluated, a sentence for each.
    """
    players = _Players(terms, placement, min(len(work), placement.workers))
    waiting = [list(batch) for batch in work]
    try:
        while waiting or players.running:
            while waiting and len(players.running) < placement.workers:
                players.begin(waiting.pop(0))
            if not players.running:
                break
            batch, played = players.first()
            if played is not None:
                done(_store(batch, terms, played, players.failures))
            elif len(batch) > 1:
                # One of them cannot be evaluated, or all together do not fit: alone each has its own fate.
                waiting += [[candidate] for candidate in batch]
    finally:
        players.end()
    return players.failures


class _Players:
    """Workers, `at_a_time` at most, and the batches that they play; `failures` says what cannot be played alone."""

    def __init__(self, terms: Terms, placement: Placement, at_a_time: int) -> None:
        self._terms, self._placement = terms, placement
        self._processes = Processes(placement, at_a_time)
        self.running: dict[Any, tuple[Process, list[Candidate]]] = {}
        self.failures: list[str] = []

    def begin(self, batch: list[Candidate]) -> None:
        """Let a worker play those of a batch that can be read."""
        files = []
        for candidate in list(batch):
            try:
                files.append(_read(candidate))
            except UserError as error:
                batch.remove(candidate)
                self.failures.append(str(error))
        if batch:
            room, terms = self._placement.workers - len(self.running), self._terms
            process = self._processes.take(self._backend(batch), room)
            played = terms.episodes, terms.at_once(batch[0].config), terms.seed, terms.deterministic
            job = EvaluationJob(batch[0].config.dump(), tuple(files), *played, max(1, self._placement.cpus))
            self.running[process.worker.evaluate.remote(job)] = process, batch

    def first(self) -> tuple[list[Candidate], list[list[Episode]] | None]:
        """Wait for the first batch that ends; its episodes, or None where it failed."""
        import ray

        future = first_ended({future: process for future, (process, _) in self.running.items()})
        process, batch = self.running.pop(future)
        played, cause, full = None, None, False
        try:
            ray.get(process.ready)  # why it could not start is told by nothing else
            played = ray.get(future)
            full = ray.get(process.worker.full.remote())
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            if len(batch) == 1 and played is None:
                self.failures.append(f"{batch[0].path}: {words_of(cause)}")
        if (cause is None or isinstance(cause, UserError)) and not full:
            self._processes.give(self._backend(batch), process)
        else:
            process.end()
        return batch, played

    def end(self) -> None:
        """End all workers."""
        self._processes.end()
        for process, _ in self.running.values():
            process.end()

    def _backend(self, batch: Sequence[Candidate]) -> str:
        return self._placement.backend(batch[0].config)


def _read(candidate: Candidate) -> bytes:
    """The bytes that a candidate is known by: a running launch replaces its best agents."""
    data = checkpoint.read_file(candidate.path)
    if hashlib.sha256(data).hexdigest() != candidate.sha256:
        raise UserError(f"{candidate.path}: was replaced meanwhile; evaluate again, or it is damaged")
    return data


def _store(
    batch: Sequence[Candidate], terms: Terms, played: Sequence[Sequence[Episode]], failures: list[str]
) -> list[Evaluation]:
    """Keep what a batch scored in the launches that it is of, as far as they may be written to."""
    found = []
    for c, episodes in zip(batch, played, strict=True):
        returns, lengths, seeds = zip(*((one.ret, one.length, one.seed) for one in episodes), strict=True)
        each = {name: tuple(one.each[name] for one in episodes) for name in episodes[0].each}
        played_so = c.sha256, terms.settings(c.config), c.trial, c.timestep
        found.append(Evaluation(*played_so, returns, lengths, seeds, each=each))
    for directory in {candidate.directory for candidate in batch if candidate.directory is not None}:
        if evaluations.can_keep(directory):
            try:
                evaluations.add(directory, [e for e, c in zip(found, batch, strict=True) if c.directory == directory])
            except REFUSED as error:
                if not disk_refuses(error):
                    raise
                failures.append(f"{directory}: what was played is shown, but could not be kept: {error}")
    return found
