"""The record of a search: what it is and which settings it has tried, as events of the launch's ledger.

All that is proposed or confirmed later follows from it, so that a search goes on from its ledger alone.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launcher.ledger.rows import SEARCH
from launcher.search.score import Metric
from launcher.search.settings import Search
from launcher.search.space import Dimension
from runner.config import Config, resolve
from runner.config.load import Key
from runner.config.overrides import parse_key

Role = Literal["search", "winner", "own"]
"""The part of a setting: one of those that are tried; or, on fresh seeds, the winner and the file's own settings."""
Entry = tuple[str, str, dict[str, Any]]
"""Kind, key and data of an event."""


@dataclass(frozen=True)
class Setting:
    """A setting by the name of its configuration, in the order in which they were chosen: dotted key → value."""

    number: int
    name: str
    values: Mapping[str, Any]
    role: Role = "search"

    @property
    def event(self) -> Entry:
        """It, as an event."""
        return "setting", self.name, {"number": self.number, "role": self.role, "values": dict(self.values)}


@dataclass(frozen=True)
class Record:
    """A search: its section, what it draws from, and the file's own settings.

    Attributes:
        metric: that is compared, `auto` resolved.
        seeds: of every setting that is tried; of a population whose members have a seed each, theirs in order.
        stem: beginning of settings' names.
        data: the configuration file, without its sections `sweep` and `search`.
        fixed: keys that are set over it, the same in all settings.
        own: text of the file's own configuration, with what is fixed.
    """

    search: Search
    metric: Metric
    seeds: tuple[int, ...]
    stem: str
    data: Mapping[str, Any]
    fixed: tuple[tuple[Key, Any], ...]
    dimensions: tuple[Dimension, ...]
    own: str

    @property
    def event(self) -> Entry:
        """It, as an event."""
        data = {
            "search": self.search.written(),
            "metric": self.metric,
            "seeds": list(self.seeds),
            "stem": self.stem,
            "data": self.data,
            "fixed": [[list(key), value] for key, value in self.fixed],
            "dimensions": [dimension.as_json() for dimension in self.dimensions],
            "own": self.own,
        }
        return SEARCH, "", data

    @classmethod
    def of_event(cls, data: Mapping[str, Any]) -> Record:
        """The record of an event's data."""
        return cls(
            Search.model_validate(data["search"]),
            data["metric"],
            tuple(data["seeds"]),
            data["stem"],
            data["data"],
            tuple((tuple(key), value) for key, value in data["fixed"]),
            tuple(map(Dimension.of_json, data["dimensions"])),
            data["own"],
        )

    def configure(self, chosen: Sequence[tuple[Key, Any]]) -> Config:
        """The configuration of a setting, with the file's seed."""
        return resolve(self.data, None, [*self.fixed, *chosen])[0]

    @property
    def own_seeds(self) -> bool:
        """Every setting has one seed, that of its place."""
        return len(self.seeds) > self.search.seeds

    @property
    def fresh_seeds(self) -> list[int]:
        """Seeds of the confirmation, none of which was searched with."""
        first = max(self.seeds) + 1
        return list(range(first, first + self.search.fresh_seeds))


def env_steps_of_all(search: Search, each: Sequence[int]) -> int:
    """Env steps that a search costs, where its settings, with all their seeds, have so many each.

    At most so many, but of asha about so many: it promotes as scores arrive, so more settings may go on than are among
    the best in the end, and one always goes on to the last rung.
    """
    if search.method != "asha":
        return sum(each)
    total, before, reduction = 0.0, 0.0, search.asha.reduction
    longest = sorted(each, reverse=True)
    for rung, share in enumerate(rung_shares(search)):
        total += sum(longest[: max(1, len(each) // reduction**rung)]) * (share - before)
        before = share
    return round(total)


def rung_shares(search: Search) -> list[float]:
    """The parts of the whole length at which settings are compared: of asha 1/27, 1/9, 1/3, 1; else 1 alone."""
    if search.method != "asha":
        return [1.0]
    return [search.asha.reduction**-rung for rung in reversed(range(search.asha.rungs))]


def affordable(search: Search, each: Sequence[int]) -> int:
    """The number of settings, the first ones, that the search's budget is enough for."""
    if search.budget is None:
        return len(each)
    counts = range(len(each) + 1)
    return bisect.bisect_right(counts, search.budget, key=lambda count: env_steps_of_all(search, each[:count])) - 1


def chosen_of(values: Mapping[str, Any]) -> list[tuple[Key, Any]]:
    """The choices of a `Setting` with these values."""
    return [(parse_key(key) or (), value) for key, value in values.items()]
