"""Proposals of Optuna's TPE: asked for many settings at a time, told the scores of those that are over.

The ledger is the truth: a study is made anew from its events for every proposal, which so is a function of the
search's seed, the setting's number, and the settings and scores before it, in the order in which they came.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.ledger.ledger import reading
from launcher.ledger.rows import Event
from launcher.ledger.storage import writing
from launcher.plan import sweep
from launcher.plan.experiment import Trial, form_packs, name_of, trial_of
from launcher.search.record import Record, Setting, chosen_of
from launcher.search.results import Results, read
from launcher.search.scheduler import Desk, Leg
from launcher.search.score import WORST
from launcher.search.space import Dimension
from runner.config import Config
from runner.config.load import Key, dotted
from runner.errors import UserError
from runner.files import expanded

PROPOSALS = 100
"""Proposals for one setting, after which that there is none that can be trained is an error."""
TOLD = "told"
"""Kind of the event that a setting is over, with its score."""


def check(what: str = "--search tpe") -> None:
    """Refuse what needs Optuna where it is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError(f"{what} needs Optuna: pip install 'sunflower[search]'") from None


def distributions(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The dimensions as Optuna has them; steps by their place."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for one in dimensions:
        if one.range is None:
            found[one.name] = CategoricalDistribution(range(len(one.steps)))
        elif one.range.whole:
            found[one.name] = IntDistribution(int(one.range.low), int(one.range.high), log=one.range.logarithmic)
        else:
            found[one.name] = FloatDistribution(one.range.low, one.range.high, log=one.range.logarithmic)
    return found


def study_of(record: Record, events: Sequence[Event], sampler: Any = None) -> Any:
    """An Optuna study of a search, from its events alone."""
    from optuna.trial import TrialState, create_trial

    study, space = _study(record, sampler=sampler), distributions(record.dimensions)
    told = {event.key: event.data["score"] for event in events if event.kind == TOLD}
    for event in events:
        if event.kind != "setting" or event.data["role"] != "search":
            continue
        params = {one.name: _inner(one, event.data["values"]) for one in record.dimensions}
        over = event.key in told
        value = None if not over else -math.inf if told[event.key] is None else told[event.key]
        state = TrialState.COMPLETE if over else TrialState.RUNNING
        study.add_trial(create_trial(state=state, params=params, distributions=space, value=value))
    return study


def _study(record: Record, **options: Any) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", study_name=record.stem, **options)


def export(directory: Path, out: Path | None = None) -> Path:
    """Write the search of a launch, by any method, as a study for optuna-dashboard: an SQLite file."""
    check("launch export --to optuna")
    from optuna.exceptions import StorageInternalError
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    with reading(directory) as ledger:
        found = read(ledger)
    if found is None:
        raise UserError(f"{directory}: is no search; allowed with --to optuna: a directory of launch --search")
    path = expanded(out or directory / "report" / "optuna.db").absolute()
    with writing(path):
        if path.exists():
            raise UserError(f"{path}: exists already and is not overwritten; choose another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _store(found, URL.create("sqlite", database=str(path)).render_as_string())
    except (SQLAlchemyError, StorageInternalError) as error:
        raise UserError(f"{path}: cannot be written: {getattr(error, 'orig', error)}") from None
    return path


def _store(found: Results, storage: str) -> None:
    """Make a study of a search in a storage of Optuna."""
    from optuna.trial import TrialState, create_trial

    study, space = _study(found.record, storage=storage), distributions(found.record.dimensions)
    for one in sorted(found.of("search"), key=lambda one: one.setting.number):
        paused = any(trial.state == "paused" for trial in one.trials)
        state = TrialState.COMPLETE if one.over else TrialState.PRUNED if paused else TrialState.RUNNING
        params = {dimension.name: _inner(dimension, one.setting.values) for dimension in found.record.dimensions}
        value, about = one.score if one.over else None, {"name": one.setting.name, "lost": one.lost}
        study.add_trial(create_trial(state=state, params=params, distributions=space, value=value, user_attrs=about))


def propose(record: Record, events: Sequence[Event], number: int, again: int = 0) -> list[tuple[Key, Any]]:
    """The values of setting `number`, knowing these events; `again` for what else there is."""
    from optuna.samplers import TPESampler

    # A sampler of its own for each, so that none depends on how often others were asked in this process.
    seed = (record.search.seed * 1_000_003 + number + again * 1_000_000_007) % 2**32
    sampler = TPESampler(seed=seed, n_startup_trials=record.search.tpe.startup, multivariate=True, constant_liar=True)
    asked = study_of(record, events, sampler=sampler).ask(distributions(record.dimensions)).params
    chosen: list[tuple[Key, Any]] = []
    for one in record.dimensions:
        value = asked[one.name]
        chosen += one.step(value) if one.range is None else [(one.keys[0], one.range.rounded(value))]
    return chosen


def _inner(one: Dimension, values: Mapping[str, Any]) -> Any:
    """The value of a dimension in a study: a number, or the place of a step."""
    chosen = [values[dotted(key)] for key in one.keys]
    return chosen[0] if one.range is not None else [list(step) for step in one.steps].index(chosen)


class Tpe:
    """The scheduler that trains packs that are there, and then what is proposed, so many settings at a time."""

    def __init__(self, packs: Sequence[Sequence[Trial]], largest: int | None) -> None:
        """Nothing yet; without Optuna a `UserError`."""
        check()
        self._packs, self._largest = deque(map(list, packs)), largest

    def next(self, desk: Desk) -> Leg | None:
        """The next pack; new proposals take the places of settings that are over."""
        if not self._packs:
            self._packs.extend(self._propose(desk))
        return Leg(self._packs.popleft()) if self._packs else None

    def _propose(self, desk: Desk) -> list[list[Trial]]:
        found, events = _read(desk)
        known = {event.key for event in events if event.kind == TOLD}
        tried = found.of("search")
        new = [one for one in found.settings if one in tried and one.over and one.setting.name not in known]
        desk.write("add_events", [told(one.setting.name, one.score) for one in new])
        record = found.record
        free = record.search.tpe.in_flight - sum(not one.over for one in tried)
        for number in range(len(tried), min(len(tried) + free, record.search.trials)):
            _, events = _read(desk)
            desk.write("add_events", [_setting(record, events, number).event])
        found, _ = _read(desk)
        trials: list[Trial] = []
        # Also those whose trials a crash has kept from being added.
        for setting in (one.setting for one in found.settings if not one.trials and one.setting.role == "search"):
            config = record.configure(chosen_of(setting.values))
            trials += [trial_of(setting.name, config.model_copy(update={"seed": seed})) for seed in record.seeds]
        if trials:
            desk.add(trials)
        return form_packs([(trial, 0) for trial in trials], desk.workers, self._largest, whole=True)


def _read(desk: Desk) -> tuple[Results, list[Event]]:
    with reading(desk.directory) as ledger:
        found, events = read(ledger), ledger.events()
    assert found is not None
    return found, events


def _setting(record: Record, events: Sequence[Event], number: int) -> Setting:
    """The proposal for setting `number`, under a name that no other has."""
    chosen, config = _possible(record, events, number)
    labels = sweep.endings(key for one in record.dimensions for key in one.keys)
    taken: dict[str, set[str]] = {event.key: set() for event in events if event.kind == "setting"}
    name = name_of(record.stem, [(labels[key], value) for key, value in chosen], config, taken)
    return Setting(number, name, {dotted(key): value for key, value in chosen})


def _possible(record: Record, events: Sequence[Event], number: int) -> tuple[list[tuple[Key, Any]], Config]:
    """The proposal and its configuration; numbers that do not go together are proposed anew."""
    for again in range(PROPOSALS):
        chosen = propose(record, events, number, again)
        try:
            return chosen, record.configure(chosen)
        except UserError as error:
            last = error
    raise last


def told(name: str, score: float) -> tuple[str, str, dict[str, Any]]:
    """The event that a setting is over."""
    return TOLD, name, {"score": None if score == WORST else score}
