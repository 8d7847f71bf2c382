"""Experiment → trials → packs: what will be trained, together with what, and under which names.

Pure functions of configurations; Ray and frameworks do not enter.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.parts import evenly, grouped
from launcher.plan import sweep
from runner.config import SEARCH, Config, resolve
from runner.config.effect import effective, shared_role
from runner.config.load import Key, Source, read_yaml
from runner.config.numbers import number
from runner.config.section import null_to_empty
from runner.config.skrl.eras import Era, era_of
from runner.draws import fresh_seed
from runner.errors import UserError
from runner.training.pack import identity, static_key

LARGEST_PACK = 32
"""Members of one pack on CPU cores: beyond it the batched program gains nothing and memory grows."""
LARGEST_LAUNCH = 100_000
EXHAUSTED = 200
"""Drawn points left out for training what others do, after which there is taken to be none that does not."""


@dataclass(frozen=True)
class Trial:
    """One resolved configuration with one seed, which `config` includes; `name` is equal for all its seeds.

    The id is readable and unique, and stable when length, logging or output change.
    """

    id: str
    name: str
    config: Config


@dataclass(frozen=True)
class Experiment:
    """The trials that a person asked for, in that order, notes on how the files were read, and each name's file."""

    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    files: Mapping[str, Path]


def combinations(files: Sequence[File], seeds: str | None) -> Experiment:
    """Every file's combinations of swept settings × every seed, where nothing is searched."""
    trials: dict[str, Trial] = {}
    taken: dict[str, set[str]] = {}
    notes: dict[str, None] = {}
    origins: dict[str, Path] = {}
    for file in files:
        sweep.refuse_ranges(file.axes, file.source)
        for _, name, config, found in configurations(file, product(file), taken):
            notes.update(dict.fromkeys(f"{file.path}: {note}" for note in found))
            origins[name] = file.path
            for seed in parse_seeds(seeds, config.seed):
                trial = trial_of(name, config.model_copy(update={"seed": seed}))
                if trial.id in trials:
                    raise UserError(
                        f"{file.path}: the trial {trial.id} is asked for twice; give each configuration once"
                    )
                trials[trial.id] = trial
                if len(trials) > LARGEST_LAUNCH:
                    raise too_many()
    return Experiment(tuple(trials.values()), tuple(notes), origins)


@dataclass(frozen=True)
class File:
    """A configuration file, the axes of its sweep with those of the command line, and its `search:` section if any."""

    path: Path
    stem: str
    data: dict[str, Any]
    source: Source
    era: Era
    axes: Sequence[sweep.Axis]
    search: Any

    def configure(self, chosen: Sequence[sweep.Choice]) -> tuple[Config, list[str]]:
        """The configuration of some choices, and notes on how the file was read."""
        overrides = [(choice.key, choice.value) for choice in chosen if choice.place is None]
        swept = [(choice.key, choice.value, choice.place) for choice in chosen if choice.place is not None]
        return resolve(self.data, self.source, overrides, swept)


def read_files(
    files: Sequence[Path],
    settings: Sequence[str],
    flags: Mapping[Key, Any],
    seeds: str | None,
    zips: Sequence[Sequence[str]] | None,
) -> list[File]:
    """Configuration files with what was typed: `settings`, `flags` and `zips` of `sweep.typed_axes`, and seeds."""
    typed = sweep.typed_axes(settings, zips, flags)
    found = []
    for path, stem in zip(files, _config_names(files), strict=True):
        data, source = read_yaml(path)
        search = null_to_empty(data.pop(SEARCH)) if SEARCH in data else None
        era, section = era_of(data), sweep.take_section(data, source)
        found.append(File(path, stem, data, source, era, sweep.combine(section, typed, era, source, seeds), search))
    return found


def product(file: File) -> Iterator[tuple[sweep.Choice, ...]]:
    """The choices of every combination of a sweep's steps."""
    if math.prod(len(axis) for axis in file.axes) > LARGEST_LAUNCH:  # before so many are resolved, which takes minutes
        raise too_many()
    return (tuple(itertools.chain(*steps)) for steps in itertools.product(*file.axes))


def configurations(
    file: File, points: Iterable[tuple[sweep.Choice, ...]], taken: dict[str, set[str]], most: int | None = None
) -> Iterator[tuple[tuple[sweep.Choice, ...], str, Config, list[str]]]:
    """The configuration of each point: its choices, name, itself, notes on the file.

    One that trains the same run as another is refused. Where points are drawn, and so many configurations are wanted at
    `most`, it is left out.
    """
    labels, reads = sweep.labels(file.axes), shared_role(file.data, file.era)
    runs: dict[str, tuple[sweep.Choice, ...]] = {}
    configs: list[Config] = []
    left_out = 0
    for chosen in points:
        if left_out == EXHAUSTED or len(configs) == most:
            break
        config, notes = file.configure(chosen)
        run = hashlib.sha256(effective(config).encode()).hexdigest()
        if run in runs and most is not None:
            left_out += 1
            continue
        name = name_of(file.stem, [(labels[c.key], c.value) for c in chosen if c.key in labels], config, taken)
        if run in runs:
            why = sweep.same_run(runs[run], chosen, config, reads, file.era)
            twice = f"the trial {trial_of(name, config).id} is asked for twice"
            raise UserError(f"{file.path}: {twice}; {why or 'give each configuration once'}")
        runs[run] = chosen
        configs.append(config)
        yield chosen, name, config, notes
    idle = sweep.idle_key(file.axes, configs, reads, file.era)
    if idle:
        raise UserError(f"{file.path}: {idle}")


def name_of(stem: str, varied: Iterable[tuple[str, Any]], config: Config, taken: dict[str, set[str]]) -> str:
    """The name of a configuration: the file's and what varies, by label and value."""
    words = [stem, *(f"{label}={_short(value)}" for label, value in varied)]
    return _free_name(slug("_".join(words)), config, taken)


def too_many() -> UserError:
    """The error of a launch that is too large."""
    return UserError(f"command line: more than {LARGEST_LAUNCH:,} trials; split the launch")


def trial_of(name: str, config: Config) -> Trial:
    """The trial of a configuration, seed included, that has this name."""
    digest = hashlib.sha256(identity(config).encode()).hexdigest()[:8]
    return Trial(f"{name}_s{config.seed}_{digest}", name, config)


def _free_name(wanted: str, config: Config, taken: dict[str, set[str]]) -> str:
    """`wanted`, or with a number where another configuration has that name: cut short, or rounded to the same."""
    trained = identity(config.model_copy(update={"seed": None}))
    name = wanted
    for place in itertools.count(2):
        if trained in taken.setdefault(name, {trained}):
            return name
        name = f"{wanted}_{place}"
    raise AssertionError


def _config_names(files: Sequence[Path]) -> list[str]:
    """File stems, with their folder in front where stems repeat."""
    stems = [file.stem for file in files]
    return [
        stem if stems.count(stem) == 1 else f"{file.absolute().parent.name}_{stem}"
        for file, stem in zip(files, stems, strict=True)
    ]


def slug(text: str) -> str:
    """Text as a readable file name: letters, digits and `._=+-`, at most 80 characters."""
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", text).strip("-.")[:80] or "run"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_seeds(text: str | None, base: int | None) -> list[int]:
    """`8` → base … base + 7; `0-7` → 0 … 7; `3,5,7` and mixtures → as listed; None → the base seed alone.

    A base of None (`seed: null`) is drawn from the operating system.
    """
    start = base if base is not None else fresh_seed()
    if text is None:
        return [start]
    wrong = UserError(
        f"command line: --seeds {text!r}: allowed: a count such as 8, a range such as 0-7, or a list such as 3,5,7 "
        f"(at most {LARGEST_LAUNCH:,})"
    )
    text = text.strip()
    count = number(text)
    if isinstance(count, int):
        if not 0 < count <= LARGEST_LAUNCH:
            raise wrong
        if start + count > 2**63:
            raise UserError(f"command line: --seeds {text}: the last of them, counted from seed {start}, is too large")
        return [start + i for i in range(count)]
    seeds: list[int] = []
    for part in text.split(","):
        ends = [number(end.strip()) for end in part.split("-")]
        first, last = ends[0], ends[-1]
        if len(ends) > 2 or not isinstance(first, int) or not isinstance(last, int) or not 0 <= first <= last < 2**63:
            raise wrong
        if last >= first + LARGEST_LAUNCH - len(seeds):
            raise wrong
        seeds += range(first, last + 1)
    if len(set(seeds)) != len(seeds):
        raise UserError(f"command line: --seeds {text!r}: a seed is given twice")
    return seeds


@dataclass(frozen=True)
class Placement:
    """The place where trials run: workers and what they run on.

    Attributes:
        workers: packs that train at a time.
        gpus: GPUs of the launch, one per worker; 0 for CPU workers.
        cpus: CPU cores of one process.
        logical: the GPUs are only numbers to Ray; nothing runs on one.
        threads: of a CPU worker's arithmetic, which the last bits of what it trains may depend on.
        stepping: threads that step the environments of a configuration, by its name; others have one for every core.
        why: what the number of cores follows from; empty where it is one for want of idle ones.
        devices: processes of one worker, each on a device of its own, which train a pack together.
    """

    workers: int
    gpus: int
    cpus: int
    logical: bool = False
    threads: int = 1
    stepping: Mapping[str, int] = field(default_factory=dict)
    why: str = ""
    devices: int = 1

    @property
    def on_gpus(self) -> bool:
        """Workers have real GPUs."""
        return bool(self.gpus) and not self.logical

    def threads_of(self, pack: Sequence[Trial]) -> int:
        """Threads that step the environments of a pack."""
        return self.stepping.get(pack[0].name, max(1, self.cpus))

    def backend(self, config: Config) -> str:
        """The backend of a configuration: `auto` is torch on GPUs and for convolutions, else JAX."""
        if config.backend != "auto":
            return config.backend
        return "torch" if self.on_gpus or config.models.convolves else "jax"


def form_packs(
    trials: Iterable[tuple[Trial, int]], workers: int, largest: int | None = None, whole: bool = False
) -> list[list[Trial]]:
    """Packs, longest work first: trials of equal Static signature and progress, as even as can be, one per worker.

    Args:
        trials: each with the timestep that it goes on from.
        workers: packs wanted of each signature.
        largest: members of a pack at most; None for LARGEST_PACK.
        whole: all seeds of a configuration are in one pack, where it can hold them.
    """
    most = largest or LARGEST_PACK
    packs: list[list[Trial]] = []
    for alike in grouped(trials, lambda pair: static_key(pair[0].config)).values():
        # Packs that were interrupted at different timesteps stay whole where there are as many as workers.
        by_timestep = grouped(alike, lambda pair: pair[1]).values()
        groups = [_units([trial for trial, _ in group], most if whole else 1) for group in by_timestep]
        at_most = most // max(len(unit) for group in groups for unit in group)
        for group, count in zip(groups, _counts(list(map(len, groups)), workers, at_most), strict=True):
            packs += [list(itertools.chain(*units)) for units in evenly(group, count)]
    return sorted(packs, key=lambda pack: -sum(trial.config.env_steps for trial in pack))


def _units(trials: Sequence[Trial], most: int) -> list[list[Trial]]:
    """Trials that stay together in packs: the seeds of a configuration, or each where those are more than `most`."""
    by_name = grouped(trials, lambda trial: trial.name)
    if max(map(len, by_name.values())) > most:
        return [[trial] for trial in trials]
    return list(by_name.values())


def _counts(sizes: Sequence[int], wanted: int, largest: int) -> list[int]:
    """Packs of each group, of these sizes: `wanted` together if that can be, the fullest group first."""
    counts = [math.ceil(size / largest) for size in sizes]
    for _ in range(min(wanted, sum(sizes)) - sum(counts)):
        fullest = max(range(len(sizes)), key=lambda i: sizes[i] / counts[i])
        counts[fullest] += 1
    return counts
