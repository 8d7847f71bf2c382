"""The `search:` section and its flags: how settings are chosen, stopped and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from launcher.search.score import Metric
from runner.config import SEARCH, keys
from runner.config.explain import refused
from runner.config.load import Key, Source, dotted
from runner.config.numbers import Float, Int
from runner.config.section import Section
from runner.errors import UserError, did_you_mean, shown

Method = Literal["grid", "random", "tpe", "asha", "pbt"]
METHODS: tuple[Method, ...] = get_args(Method)


class Tpe(Section):
    """Options of `method: tpe`."""

    startup: Annotated[Int, Field(ge=1)] = 10
    """Settings that are drawn at random before any is proposed."""
    in_flight: Annotated[Int, Field(ge=1)] = 8
    """Settings that train at a time, each proposed knowing of the others."""


class Asha(Section):
    """Options of `method: asha`."""

    reduction: Annotated[Int, Field(ge=2)] = 3
    """The best of so many settings is promoted to a rung of so many times the length."""
    rungs: Annotated[Int, Field(ge=1, le=20)] = 4
    """Rungs; the last is the whole length: with 4 and a reduction of 3 they are 1/27, 1/9, 1/3 and 1."""


class Pbt(Section):
    """Options of `method: pbt`."""

    population: Annotated[Int, Field(ge=2)] = 16
    """Members."""
    interval: Annotated[Int, Field(ge=1)] | Literal["auto"] = "auto"
    """Timesteps between selections; auto: a twentieth of the length."""
    truncation: Annotated[Float, Field(gt=0, le=0.5)] = 0.25
    """The share of members that is replaced by copies of as many of the best."""
    perturbation: Annotated[Float, Field(ge=1)] = 1.25
    """A copied number is multiplied or divided by this; 1: left as it is."""
    resample: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """The probability that a copied number is drawn anew from its range instead."""
    frequencies: list[Annotated[Int, Field(ge=1)]] = Field(default=[1], min_length=1)
    """For each of as many subpopulations the intervals between its selections; [1]: all members are one population."""


class Search(Section):
    """The way in which a launch chooses among settings."""

    method: Method = "grid"
    """The method: every combination, random draws, proposals of Optuna's TPE, successive halving, or a population."""
    trials: Annotated[Int, Field(ge=1, le=100_000)] = 64
    """Settings that are tried, each with all its seeds; not of grid and pbt."""
    seeds: Annotated[Int, Field(ge=1, le=100_000)] = 3
    """Seeds of each setting, over which it is scored; a member of pbt has one, unless --seeds says otherwise."""
    metric: Metric | Literal["auto"] = "auto"
    """The return that is maximised: of the periodic evaluation, or of training; auto: evaluation where there is one."""
    budget: Annotated[Int, Field(ge=1)] | None = None
    """Env steps that it may cost, of asha about: fewer settings are tried where all cost more; null: no limit."""
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    """The number that all draws of the search follow from; seeds of trials are others."""
    confirm: Annotated[Int, Field(ge=0, le=1000)] | Literal["auto"] = "auto"
    """Fresh seeds with which the winner and the file's own settings are trained at the end; auto: 10, of grid 0."""
    tpe: Tpe = Field(default_factory=Tpe)
    """Options of tpe."""
    asha: Asha = Field(default_factory=Asha)
    """Options of asha."""
    pbt: Pbt = Field(default_factory=Pbt)
    """Options of pbt."""

    @model_validator(mode="after")
    def _resolved(self) -> Search:
        if self.confirm == "auto":
            self.confirm = 0 if self.method == "grid" else 10
        return self

    @property
    def fresh_seeds(self) -> int:
        """Seeds of the confirmation; 0: there is none."""
        assert self.confirm != "auto"
        return self.confirm

    @property
    def drawn(self) -> int:
        """Settings that are drawn or proposed."""
        return self.pbt.population if self.method == "pbt" else self.trials

    @property
    def begins_with(self) -> int:
        """Settings that are drawn when the launch is created."""
        return min(self.trials, self.tpe.startup) if self.method == "tpe" else self.drawn

    def written(self) -> dict[str, Any]:
        """The section with every default, without the options of other methods."""
        others = set(METHODS) - {self.method}
        return {name: value for name, value in self.model_dump().items() if name not in others}


def read_search(data: Mapping[str, Any] | None, flags: Mapping[Key, Any], source: Source) -> Search:
    """The section of a file, which `source` names, with the flags of the command line over it."""
    if data is not None and not isinstance(data, Mapping):
        raise UserError(f"{source.where((SEARCH,))}: found {shown(data, 80)}; allowed: keys such as method: random")
    merged: dict[str, Any] = {**(data or {})}
    for key, value in flags.items():
        inner = merged
        for part in key[:-1]:
            below = inner.get(str(part))
            inner[str(part)] = inner = {**below} if isinstance(below, Mapping) else {}
        inner[str(key[-1])] = value
    try:
        search = Search.model_validate(merged)
    except ValidationError as error:
        lines = (_sentence(detail, flags, source) for detail in error.errors())
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    for key, methods in _OF_METHODS.items():
        if key in flags and search.method not in methods:
            raise UserError(
                f"command line: {FLAGS[key]} {flags[key]}: the search's method is {search.method}, which has no such "
                f"number; allowed with --search {', '.join(methods)}"
            )
    return search


FLAGS: Mapping[Key, str] = {
    ("method",): "--search",
    ("trials",): "--trials",
    ("pbt", "population"): "--population",
    ("confirm",): "--confirm",
    ("seed",): "--search-seed",
}
"""Keys of the section that have a flag."""
_OF_METHODS: Mapping[Key, Sequence[Method]] = {("trials",): ("random", "tpe", "asha"), ("pbt", "population"): ("pbt",)}
"""Keys that only some methods read."""


@cache
def _table() -> dict[str, keys.Entry]:
    return {entry.key: entry for entry in keys.entries_of(Search)}


def _sentence(detail: ErrorDetails, flags: Mapping[Key, Any], source: Source) -> str:
    """A mistake of the section, as errors of other sections say it."""
    unknown = detail["type"] == "extra_forbidden"
    # Behind a key come pydantic's names for the ways to write its value.
    key = next(key for key in (detail["loc"][:2], detail["loc"][:1]) if unknown or dotted(key) in _table())
    where = f"command line: {FLAGS[key]}" if key in flags else source.where((SEARCH, *key))
    if unknown:
        known = [entry.name for name, entry in _table().items() if name.split(".")[:-1] == [*key[:-1]]]
        return f"{where}: unknown key.{did_you_mean(key[-1], known)} Allowed here: {', '.join(sorted(known))}."
    entry = _table()[dotted(key)]
    return f"{where}: {refused(detail, key, entry).removesuffix('.')} ({entry.text.removesuffix('.')})"
