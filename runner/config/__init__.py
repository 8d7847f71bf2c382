"""YAML and overrides of any skrl era in, one strict canonical `Config` out."""

from __future__ import annotations

import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from runner.config import overrides as _overrides
from runner.config.load import Key, Source, dotted, plain, plain_copy, read_yaml
from runner.config.schedules import SCHEDULES, arguments_of
from runner.config.schema import Config
from runner.config.section import keys_of
from runner.config.skrl.algorithms import check_class, check_keys
from runner.config.skrl.canonical import canonical, canonical_override
from runner.config.skrl.eras import LEGACY_AGENT, LEGACY_MODEL, Era, era_of
from runner.errors import UserError, did_you_mean, shown

__all__ = ["SWEEP", "Config", "canonical_key", "load_config", "resolve"]

SWEEP = "sweep"
"""Section of a file with the alternatives of its settings; a launch chooses among them before `resolve`."""

MAX_REPORTED = 8
UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
MARKERS = ("bool", "int", "float", "str", "list", "dict")
"""Parts of pydantic's locations that are no keys, besides those with brackets."""


def load_config(path: str | Path, overrides: Iterable[tuple[Key, Any]] = ()) -> tuple[Config, list[str]]:
    """Read a YAML file strictly and apply overrides.

    Returns:
        The configuration and notes for the user (which era was read).

    Raises:
        UserError: anything wrong, with file, line, key, what was found and what is allowed.
    """
    data, source = read_yaml(path)
    return resolve(data, source, overrides)


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
    if SWEEP in raw:
        raise UserError(
            f"{source.where((SWEEP,))}: describes several configurations, and one is wanted here; "
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
    era = era_of(raw)
    others = [(*_canonical(key, value, era, where), where) for key, value, where in settings if key[0] != "models"]
    names = [canonical_key(key, era) for key, _ in overrides]
    places = {canonical_key(key, era): place for key, _, place in swept}
    source = replace(source, overridden=frozenset([*names, *(key for key, _ in overrides)]), written=dict(places))
    # What is chosen has no default either; but in errors it is the file's.
    translated, notes = canonical(raw, replace(source, overridden=source.overridden | places.keys()))
    source = replace(source, written={**places, **source.written, **places})
    for key, value, where in others:
        _overrides.apply(translated, key, plain_copy(value), where)
    try:
        return Config.model_validate(translated), notes
    except ValidationError as error:
        lines = _merged(_explain(detail, source, translated) for detail in error.errors())
        if len(lines) > MAX_REPORTED:
            lines = [*lines[:MAX_REPORTED], f"… and {len(lines) - MAX_REPORTED} more"]
        raise UserError("\n".join(lines)) from None


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


def canonical_key(key: Key, era: Era) -> Key:
    """The canonical name of a setting over a file of this era; keys below `models` stay as they are."""
    return key if key[0] == "models" else canonical_override(key, False, era)[0]


def _canonical(key: Key, value: Any, era: Era, where: str) -> tuple[Key, Any]:
    """`canonical_override`, whose errors say where the setting is written."""
    try:
        return canonical_override(key, value, era)
    except UserError as error:
        raise UserError(str(error).replace("command line", where, 1)) from None


def _merged(sentences: Iterable[str]) -> list[str]:
    """The sentences, each once; what one value may be in several ways is said in one."""
    found: dict[str, list[str]] = {}
    for sentence in dict.fromkeys(sentences):
        start, separator, allowed = sentence.partition("; allowed: ")
        found.setdefault(start + separator, []).append(allowed)
    return [
        start + " or ".join(way.rstrip(".") if len(ways) > 1 else way for way in ways) for start, ways in found.items()
    ]


def _explain(detail: ErrorDetails, source: Source, data: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence: where, what, what is allowed, nearest."""
    kind, context = detail["type"], detail.get("ctx", {})
    fields, key = _walk(detail["loc"], data, kind in UNKNOWN_KEY)
    where, found = source.where(key), shown(detail["input"])
    if kind in UNKNOWN_KEY:
        if len(key) == 1 and key not in source.overridden:
            fields = [*fields, SWEEP]
        older = (LEGACY_MODEL if "network" in fields else set()) | (LEGACY_AGENT if "gae_lambda" in fields else set())
        hint = _elsewhere(key) or did_you_mean(key[-1], sorted({*fields, *older})) or _elsewhere(key, similar=True)
        return f"{where}: unknown key.{hint} Allowed here: {_join(fields)}."
    if kind == "missing":
        return f"{where}: required, but not given"
    if kind == "value_error":
        return _refused(str(context["error"]), source, key)
    if kind == "literal_error":
        names = [name.strip("' ") for name in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{where}: found {found}; allowed: {context['expected']}.{did_you_mean(detail['input'], names)}"
    if kind in ("model_type", "dict_type"):
        return f"{where}: found {found}; allowed: a block of keys"
    message = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{where}: found {found}; allowed: {message}"


def _elsewhere(key: Key, similar: bool = False) -> str:
    """` Did you mean 'agent.x'?` for a key that has its name, or one like it, in another section; else nothing."""
    paths = _paths()
    names = difflib.get_close_matches(str(key[-1]), paths, 1, 0.8) if similar else [str(key[-1])]
    found = [path for name in names for path in paths.get(name, []) if path != dotted(key)]
    return f" Did you mean {' or '.join(map(repr, found[:3]))}?" if found else ""


@functools.cache
def _paths() -> dict[str, list[str]]:
    """Name of a key, older ones too → where it may stand."""
    found: dict[str, dict[str, None]] = {}

    def walk(model: type[BaseModel], path: str) -> None:
        for name, field in model.model_fields.items():
            if field.annotation is Any:
                continue  # skrl's, without a meaning here
            written = field.alias or name
            found.setdefault(written, {})[path + written] = None
            inner = _model_in(field.annotation)
            if inner is not None:
                entry = ".0." if typing.get_origin(field.annotation) is list else "."
                walk(inner, path + written + entry)

    walk(Config, "")
    for schedule in SCHEDULES.values():
        walk(schedule, "agent.learning_rate_scheduler_kwargs.")
    for section, names in (("agent", LEGACY_AGENT), ("models.policy", LEGACY_MODEL), ("models.value", LEGACY_MODEL)):
        for name in names:
            found.setdefault(name, {})[f"{section}.{name}"] = None
    return {name: list(paths) for name, paths in found.items()}


def _refused(sentence: str, source: Source, key: Key) -> str:
    """What a validator says; a model's begins with the place in its network or output."""
    if not key:
        return f"{source.name}: {sentence}"
    place, colon, what = sentence.partition(": ")
    inner = tuple(int(part) if part.isdecimal() else part for part in place.split("."))
    if colon and inner[0] in ("network", "output"):
        return f"{source.where((*key, *inner))}: {what}"
    return f"{source.where(key)}: {sentence}"


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _walk(location: tuple[int | str, ...], data: Mapping[str, Any], unknown: bool) -> tuple[list[str], Key]:
    """Field names at the parent of an error's location, and the location without pydantic's own markers.

    With `unknown` its last part is a key that somebody wrote, which may look like a marker.
    """
    model: type[BaseModel] | None = Config
    fields: list[str] = keys_of(Config)
    key: list[int | str] = []
    for depth, part in enumerate(location, 1):
        written = unknown and depth == len(location)
        if isinstance(part, str) and not written and ("[" in part or part in MARKERS):
            continue
        key.append(part)
        if model is not None:
            fields = keys_of(model)
            field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
            model = _model_in(field.annotation) if field is not None else None
        if part == "learning_rate_scheduler_kwargs":
            model = arguments_of(data["agent"].get("learning_rate_scheduler"))
    return fields, tuple(key)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType, list):
        return next(filter(None, map(_model_in, typing.get_args(annotation))), None)
    return None
