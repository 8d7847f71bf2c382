"""The beginning of a launch: what files and the command line ask for, as combinations or as a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.ledger.configurations import config_of, text_of
from launcher.parts import grouped
from launcher.plan import sweep
from launcher.plan.experiment import (
    LARGEST_LAUNCH,
    Experiment,
    File,
    Trial,
    combinations,
    configurations,
    parse_seeds,
    product,
    read_files,
    too_many,
    trial_of,
)
from launcher.search import asha, pbt, space, tpe
from launcher.search.record import Entry, Record, Setting, affordable, env_steps_of_all
from launcher.search.score import Metric
from launcher.search.settings import METHODS, Search, read_search
from launcher.watch.tables import count
from runner.config import SEARCH, Config
from runner.config.load import Key, dotted
from runner.errors import UserError


@dataclass(frozen=True)
class Begun:
    """A search as it begins: its record, and the settings that are drawn."""

    record: Record
    settings: tuple[Setting, ...]

    @property
    def events(self) -> list[Entry]:
        """The first events of its ledger."""
        return [self.record.event, *(setting.event for setting in self.settings)]

    def described(self, trials: Sequence[Trial]) -> list[str]:
        """Lines on what will be searched, how, and at what cost."""
        record, search = self.record, self.record.search
        seeds = "a seed of its own" if record.own_seeds else count(len(record.seeds), "seed")
        shape = f"{count(search.trials, 'setting')} x {seeds}"
        lines = [f"Search:      {search.method}, {shape}, by {record.metric}, search seed {search.seed}"]
        lines += [f"             {one.name}: {one}" for one in record.dimensions]
        own = config_of(record.own, 0)
        if search.method == "asha":
            rungs = ", ".join(f"{rung:,}" for rung in asha.rungs_of(own, search.asha.reduction, search.asha.rungs))
            lines.append(f"Rungs:       {rungs} timesteps; the best 1/{search.asha.reduction} go on")
        each = [
            sum(trial.config.env_steps for trial in of) for of in grouped(trials, lambda trial: trial.name).values()
        ]
        each += [max(each)] * (search.trials - len(each))
        extra = own.env_steps * 2 * len(record.fresh_seeds)
        confirmed = f", and {extra:,} of the confirmation ({len(record.fresh_seeds)} fresh seeds)" if extra else ""
        cost = env_steps_of_all(search, each)
        said = f"about {cost:,}" if search.method == "asha" else f"{cost:,} at most"
        lines.append(f"Env steps:   {said}{confirmed}")
        if (later := search.trials - len(self.settings)) > 0:
            lines.append(f"             {count(later, 'setting')} will be proposed when others are over")
        return lines


def read(
    files: Sequence[Path],
    settings: Sequence[str],
    flags: Mapping[Key, Any],
    seeds: str | None,
    zips: Sequence[Sequence[str]] | None = None,
    searching: Mapping[Key, Any] | None = None,
) -> tuple[Experiment, Begun | None]:
    """The trials to begin with, and the search that they belong to, if one is asked for by the file or by flags.

    `searching` are those of `read_search`, the others of `read_files`.
    """
    found = read_files(files, settings, flags, seeds, zips)
    if not searching and all(file.search is None for file in found):
        return combinations(found, seeds), None
    if len(found) > 1:
        raise UserError(f"{found[1].path}: a search is of one configuration file; give each a launch of its own")
    (file,) = found
    if file.search is None and ("method",) not in (searching or {}):
        raise UserError(
            f"command line: flags of a search without a method; add --search, one of {', '.join(METHODS[1:])}, or a "
            f"search: section to {file.path}"
        )
    return _search(file, read_search(file.search, searching or {}, file.source), seeds)


def _search(file: File, search: Search, seeds: str | None) -> tuple[Experiment, Begun]:
    own, fixed = _own(file)
    # Members of a population that have a seed together would be equal but for their Hyper numbers.
    alone = search.method == "pbt" and seeds is None
    numbers = tuple(parse_seeds(seeds or str(search.pbt.population if alone else search.seeds), own.seed))
    per_setting = 1 if alone else len(numbers)
    if search.drawn * per_setting > LARGEST_LAUNCH:
        raise too_many()
    if max(numbers) + search.fresh_seeds >= 2**63:
        raise UserError(f"command line: --seeds {seeds}: the seeds of the confirmation, which follow, are too large")
    if search.method == "grid":
        sweep.refuse_ranges(file.axes, file.source)
        found = list(configurations(file, product(file), {}))
    else:
        for extreme in space.extremes(file.axes):
            file.configure(extreme)
        found = list(configurations(file, space.points(file.axes, search.seed), {}, search.begins_with))
    notes = {f"{file.path}: {note}": None for _, _, _, told in found for note in told}
    configs = [config for _, _, config, _ in found]
    search, limited = _within(search, [config.env_steps * per_setting for config in configs])
    found = found[: search.begins_with]
    numbers = numbers[: len(found)] if alone else numbers
    dimensions = space.dimensions(file.axes)
    if static := space.static_names(dimensions, own, file.era):
        said = "is no number of a member" if len(static) == 1 else "are no numbers of members"
        limited.append(f"{', '.join(static)} {said}: settings that differ there train in packs of their own")
    keys = {key for dimension in dimensions for key in dimension.keys}
    settings, trials = [], []
    for place, (chosen, name, config, _) in enumerate(found):
        settings.append(Setting(place, name, {dotted(c.key): c.value for c in chosen if c.key in keys}))
        its = numbers[place : place + 1] if alone else numbers
        trials += [trial_of(name, config.model_copy(update={"seed": seed})) for seed in its]
    metric = search.metric if search.metric != "auto" else "evaluation" if own.evaluation.interval else "return"
    _refuse_evaluations(metric, [own, *configs], file)
    search = search.model_copy(update={"seeds": per_setting})
    if search.method == "asha":
        search = _rungs(search, configs, file, limited)
    elif search.method == "pbt":
        _refuse_boundaries(search, configs, file)
    if search.method == "tpe":
        tpe.check()
    record = Record(search, metric, numbers, file.stem, file.data, fixed, tuple(dimensions), text_of(own))
    if search.method == "pbt":
        limited += _perturbed(record, settings[0], file)
    names = {setting.name: file.path for setting in settings}
    return Experiment(tuple(trials), (*notes, *limited), names), Begun(record, tuple(settings))


def _refuse_evaluations(metric: Metric, configs: Sequence[Config], file: File) -> None:
    """Refuse to compare evaluations that there will not be."""
    for interval, length in ((one.evaluation.interval, one.length) for one in configs):
        if metric == "evaluation" and not 0 < interval <= length:
            raise UserError(
                f"{file.path}: search.metric is evaluation, and evaluation.interval is {interval:,}; allowed: 1 to "
                f"{length:,}, or search.metric return"
            )


def _refuse_boundaries(search: Search, configs: Sequence[Config], file: File) -> None:
    """Refuse a population whose members cannot be compared before the end, or not at the same timesteps."""
    rollouts, interval = configs[0].agent.rollouts, search.pbt.interval
    length = configs[0].length
    if any((one.agent.rollouts, one.updates) != (rollouts, configs[0].updates) for one in configs):
        raise UserError(
            f"{file.path}: members of a population are compared at the same timesteps; allowed: one value of "
            "agent.rollouts and of trainer.timesteps, or another method"
        )
    if interval != "auto" and interval >= length:
        raise UserError(
            f"{file.source.where((SEARCH, 'pbt', 'interval'))}: found {interval:,}; allowed: timesteps below the "
            f"length, {length:,}, so that members are compared before the end"
        )
    frequencies, least = search.pbt.frequencies, 4 * len(search.pbt.frequencies)
    if search.pbt.population < least > 4:
        raise UserError(
            f"{file.source.where((SEARCH, 'pbt', 'frequencies'))}: found {frequencies}, of {search.pbt.population} "
            f"members; allowed: 4 members or more for each, {least} in all"
        )


def _rungs(search: Search, configs: Sequence[Config], file: File, notes: list[str]) -> Search:
    """The search with as many rungs as are different updates in all configurations, if the file names no number."""
    reduction, wanted = search.asha.reduction, search.asha.rungs
    most = next(
        rungs
        for rungs in range(wanted, 0, -1)
        if all(len(set(asha.rungs_of(one, reduction, rungs))) == rungs for one in configs)
    )
    if most < wanted:
        fewest = min(one.updates for one in configs)
        said = f"of {count(fewest, 'update')} {most} rungs are different ones with a reduction of {reduction}"
        if "rungs" in search.asha.model_fields_set:
            where = file.source.where((SEARCH, "asha", "rungs"))
            raise UserError(f"{where}: found {wanted}; {said}; allowed: 1 to {most}, or a longer training")
        notes.append(f"{said}, not {wanted}: so many there are")
        search = search.model_copy(update={"asha": search.asha.model_copy(update={"rungs": most})})
    return search


def _perturbed(record: Record, setting: Setting, file: File) -> list[str]:
    """Refuse ranges of a population whose numbers are no member's; a note on alternatives, which are not perturbed."""
    if config_of(record.own, 0).agent.changes:
        raise UserError(f"{file.path}: agent.changes: pbt finds changes of its own; allowed: [], or another method")
    spans = pbt.spans_of(record, setting.values)
    for axis in file.axes:
        (choice, *_) = axis[0]
        if dotted(choice.key) in spans and spans[dotted(choice.key)] is None:
            raise UserError(
                f"{choice.where(file.source)}: {dotted(choice.key)} is no number that each member of a pack has for "
                "itself, so pbt cannot change it while they train; allowed: a list of alternatives, of which every "
                "member keeps one, or another method"
            )
    kept = [one.name for one in record.dimensions if one.range is None]
    return [f"{', '.join(kept)}: a member keeps what it begins with; only ranges are perturbed"] if kept else []


def _own(file: File) -> tuple[Config, tuple[tuple[Key, Any], ...]]:
    """The file's own settings, and keys that are set over it and do not vary."""
    space.refuse_seeds(file.axes, file.era, file.source)
    fixed = [choice for axis in file.axes if not space.varies(axis) for choice in axis[0]]
    try:
        own, _ = file.configure(fixed)
    except UserError as error:
        raise UserError(f"{error} (among the file's own settings, with which a search compares its winner)") from None
    if len(fixed) == sum(len(axis[0]) for axis in file.axes):
        raise UserError(
            f"{file.path}: there is nothing to search; give ranges or alternatives, such as "
            "--set agent.learning_rate=log:1e-5..1e-2, or a sweep: section"
        )
    return own, tuple((choice.key, choice.value) for choice in fixed)


def _within(search: Search, each: Sequence[int]) -> tuple[Search, list[str]]:
    """The search with as many settings as there are and as its budget is enough for; notes if they are fewer."""
    notes, wanted = [], search.drawn
    if search.method == "grid":
        wanted = len(each)
    elif search.method == "tpe" and len(each) == search.begins_with:
        each = [*each, *[max(each)] * (wanted - len(each))]  # of those that will be proposed as much is known
    elif len(each) < wanted:
        notes.append(f"the space has {len(each)} different settings, fewer than the {wanted} that are wanted")
    least = 2 if search.method == "pbt" else 1
    if len(each) < least:
        raise UserError("search.method: found pbt, of a space with one setting; allowed: a space with 2 or more")
    enough = affordable(search, each)
    if enough < least:
        raise UserError(
            f"search.budget: found {search.budget:,} env steps; {least} of these settings cost "
            f"{env_steps_of_all(search, each[:least]):,}, with all seeds"
        )
    if enough < len(each):
        notes.append(f"search.budget is enough for {enough} of {len(each)} settings")
    update = {"pbt": search.pbt.model_copy(update={"population": enough})} if search.method == "pbt" else {}
    return search.model_copy(update={"trials": enough, **update}), notes
