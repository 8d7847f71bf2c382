"""pydantic's errors as sentences: where, what was found, what is allowed, the nearest name, what the key is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from runner.config import keys
from runner.config.load import Key, Source, dotted
from runner.config.skrl.eras import LEGACY_AGENT, LEGACY_MODEL
from runner.errors import did_you_mean, shown

SWEEP = "sweep"
"""Section of a file with the alternatives of its settings; a launch chooses among them before anything is read."""
MAX_REPORTED = 8
_UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
_MARKERS = ("bool", "int", "float", "str", "list", "dict")
"""Parts of pydantic's locations that are no keys, besides those with brackets."""
_OLDER = {"models.policy": LEGACY_MODEL, "models.value": LEGACY_MODEL, "agent": LEGACY_AGENT}
"""Section → names that skrl had for its keys."""


def explained(error: ValidationError, source: Source, data: Mapping[str, Any]) -> str:
    """A line for each mistake; what one value may be in several ways is said in one."""
    agent = data.get("agent")
    schedule = agent.get("learning_rate_scheduler") if isinstance(agent, Mapping) else None
    schedule = schedule if isinstance(schedule, str) else None
    found: dict[str, tuple[dict[str, None], str]] = {}
    for detail in error.errors():
        key, sentence = _said(detail, source, schedule)
        start, separator, way = sentence.partition("; allowed: ")
        ways, _ = found.setdefault(start + separator, ({}, _meaning(key, schedule)))
        ways[way] = None
    lines = [_joined(start, list(ways), meaning) for start, (ways, meaning) in found.items()]
    if len(lines) > MAX_REPORTED:
        lines = [*lines[:MAX_REPORTED], f"… and {len(lines) - MAX_REPORTED} more"]
    return "\n".join(lines)


def _joined(start: str, ways: list[str], meaning: str) -> str:
    allowed = ways[0] if len(ways) == 1 else " or ".join(way.rstrip(".") for way in ways)
    return f"{(start + allowed).removesuffix('.')} ({meaning})" if meaning else start + allowed


def _meaning(key: Key, schedule: str | None) -> str:
    """The schema's line on a key, or on the list that it is in; nothing for unknown keys and for sections."""
    while key and isinstance(key[-1], int):
        key = key[:-1]
    entry = keys.table(schedule).get(keys.spelled(key))
    return "" if entry is None or entry.section else entry.text.removesuffix(".")


def _key(location: tuple[int | str, ...], unknown: bool) -> Key:
    """An error's location without pydantic's own markers; the last part of an unknown key may look like one."""
    return tuple(
        part
        for place, part in enumerate(location, 1)
        if isinstance(part, int) or ("[" not in part and part not in _MARKERS) or (unknown and place == len(location))
    )


def _said(detail: ErrorDetails, source: Source, schedule: str | None) -> tuple[Key, str]:
    """The key of an error, and the sentence on it."""
    kind, context = detail["type"], detail.get("ctx", {})
    key = _key(detail["loc"], kind in _UNKNOWN_KEY)
    if kind == "value_error":
        key, what = _of_validator(key, str(context["error"]))
        return key, f"{source.where(key) if key else source.name}: {what}"
    return key, f"{source.where(key)}: {_sentence(detail, key, source, schedule)}"


def _of_validator(key: Key, said: str) -> tuple[Key, str]:
    """The key and the sentence of a validator; a model's begins with the place in its network or output."""
    place, colon, what = said.partition(": ")
    inner = tuple(int(part) if part.isdecimal() else part for part in place.split("."))
    return ((*key, *inner), what) if key and colon and inner[0] in ("network", "output") else (key, said)


def _sentence(detail: ErrorDetails, key: Key, source: Source, schedule: str | None) -> str:
    """The mistake at a key, in words."""
    kind, found = detail["type"], shown(detail["input"])
    if kind in _UNKNOWN_KEY:
        return f"unknown key.{_unknown(key, source, schedule)}"
    if kind == "missing":
        return "required, but not given"
    allowed = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if kind == "literal_error":
        expected = str(detail["ctx"]["expected"])
        names = [name.strip("' ") for name in expected.replace(" or ", ", ").split(", ")]
        allowed = f"{expected}.{did_you_mean(detail['input'], names)}"
    elif kind in ("model_type", "dict_type"):
        allowed = "a block of keys"
    return f"found {found}; allowed: {allowed}"


def _unknown(key: Key, source: Source, schedule: str | None) -> str:
    """The nearest names of a key that is unknown, here or elsewhere, and those that are allowed here."""
    fields = keys.below(key[:-1], schedule)
    if len(key) == 1 and key not in source.overridden:
        fields.append(SWEEP)
    known = sorted({*fields, *_OLDER.get(keys.spelled(key[:-1]), ())})
    hint = _elsewhere(key) or did_you_mean(key[-1], known) or _elsewhere(key, similar=True)
    return f"{hint} Allowed here: {', '.join(sorted(fields))}."


def _elsewhere(key: Key, similar: bool = False) -> str:
    """` Did you mean 'agent.x'?` for a key that has its name, or one like it, in another section; else nothing."""
    places = {name: list(paths) for name, paths in keys.places().items()}
    for section, names in _OLDER.items():
        for name in names:
            places.setdefault(name, []).append(f"{section}.{name}")
    like = difflib.get_close_matches(str(key[-1]), places, 1, 0.8) if similar else [str(key[-1])]
    found = [path for name in like for path in places.get(name, []) if path != dotted(key)]
    return f" Did you mean {' or '.join(map(repr, found[:3]))}?" if found else ""
