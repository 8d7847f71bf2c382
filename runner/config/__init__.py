"""YAML and overrides of any skrl era in, one strict canonical `Config` out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.config import overrides as _overrides
from runner.config.explain import SEARCH, SWEEP, explained
from runner.config.load import Key, Source, plain, plain_copy, read_yaml
from runner.config.schema import Config
from runner.config.skrl.algorithms import check_class, check_keys
from runner.config.skrl.canonical import canonical, canonical_key, canonical_override, of_agents
from runner.config.skrl.eras import era_of
from runner.errors import UserError, shown

__all__ = ["SEARCH", "SWEEP", "Config", "canonical_key", "load_config", "resolve"]


def load_config(path: str | Path, overrides: Iterable[tuple[Key, Any]] = ()) -> tuple[Config, list[str]]:
    """The configuration of a YAML file with overrides, and notes for the user (which era was read)."""
    return resolve(*read_yaml(path), overrides)


def resolve(
    data: Mapping[str, Any],
    source: Source | None = None,
    overrides: Iterable[tuple[Key, Any]] = (),
    swept: Iterable[tuple[Key, Any, Key]] = (),
) -> tuple[Config, list[str]]:
    """As `load_config`, for a mapping that is already in memory.

    Keys below `models` are overridden before translation, since a legacy model is translated as a whole; all others
    after it, under their canonical names, so that the command line also beats a file that uses an older name.

    Args:
        data: a configuration in any spelling, without `sweep:`.
        source: names files and lines in errors.
        overrides: key and value, of the command line.
        swept: key, value and the place below `sweep:` in the file, of what was chosen there; overrides beat it.
    """
    if source is None:  # no file
        if not isinstance(data, Mapping):
            found = shown(data, 80)
            raise UserError(f"configuration: found {found}; allowed: a mapping, such as load_cfg_from_yaml gives")
        data, source = plain(data), Source("configuration")
    overrides, swept = list(overrides), list(swept)
    raw = {str(k): v for k, v in data.items()}
    era = era_of(raw)
    for section in (SWEEP, SEARCH):
        if section not in raw:
            continue
        raise UserError(
            f"{source.where((section,))}: describes several configurations, and one is wanted here; "
            "`launch FILE` trains them all, without the section there is one"
        )
    settings = [
        *((key, value, source.where(place)) for key, value, place in swept),
        *((key, value, "command line") for key, value in overrides),
    ]
    if settings:
        raw = plain_copy(raw)
    for key, value, where in settings:
        if key[0] == "models":
            _overrides.apply(raw, key, plain_copy(value), where)
    _check_algorithm(raw, source, settings)
    others = [(*canonical_override(key, value, era, where), where) for key, value, where in settings]
    names = [canonical_key(key, era) for key, _ in overrides]
    places = {canonical_key(key, era): place for key, _, place in swept}
    source = replace(source, overridden=frozenset([*names, *(key for key, _ in overrides)]), written=dict(places))
    # What is chosen has no default either; but in errors it is the file's.
    translated, notes = canonical(raw, era, replace(source, overridden=source.overridden | places.keys()))
    source = replace(source, written={**places, **source.written, **places})
    for key, value, where in others:
        if key[0] != "models":
            _overrides.apply(translated, of_agents(translated, key, value), plain_copy(value), where)
    try:
        return Config.model_validate(translated), notes
    except ValidationError as error:
        raise UserError(explained(error, source, translated)) from None


def _check_algorithm(data: Mapping[str, Any], source: Source, settings: Iterable[tuple[Key, Any, str]]) -> None:
    """Refuse another algorithm of skrl before anything else is looked at: most of its keys would be unknown, too."""
    agent = data.get("agent")
    # What a sweep chooses is said with its whole place in the file.
    chosen = [
        (value, f"{where}: agent.class" if where == "command line" else where)
        for key, value, where in settings
        if key == ("agent", "class")
    ]
    if isinstance(agent, Mapping) and "class" in agent:
        chosen.insert(0, (agent["class"], source.where(("agent", "class"))))
    if chosen:
        check_class(*chosen[-1])
    else:
        check_keys(data, source)
