"""pydantic's errors as sentences: where, what was found, what is allowed, the nearest name, what the key is."""

from __future__ import annotations

import difflib
import math
import re
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
SEARCH = "search"
"""Section of a file on how they are chosen."""
_FLAGS = {
    (SWEEP,): "its parts are --set and --zip",
    (SEARCH,): "its parts are --search, --trials, --population, --confirm and --search-seed; others are only in a file",
}
MAX_REPORTED = 8
_UNKNOWN_KEY = ("extra_forbidden", "invalid_key")
_MARKERS = ("bool", "int", "float", "str", "list", "dict")
"""Parts of pydantic's locations that are no keys, besides those with brackets."""
_OLDER = {"models.policy": LEGACY_MODEL, "models.value": LEGACY_MODEL, "agent": LEGACY_AGENT}
"""Section → names that skrl had for its keys."""


def explained(error: ValidationError, source: Source, data: Mapping[str, Any]) -> str:
    """A line for each mistake; a value that none of several ways allows is one."""
    agent = data.get("agent")
    schedule = agent.get("learning_rate_scheduler") if isinstance(agent, Mapping) else None
    schedule = schedule if isinstance(schedule, str) else None
    lines = list(dict.fromkeys(_sentence(detail, source, schedule) for detail in error.errors()))
    if len(lines) > MAX_REPORTED:
        lines = [*lines[:MAX_REPORTED], f"… and {len(lines) - MAX_REPORTED} more"]
    return "\n".join(lines)


def _sentence(detail: ErrorDetails, source: Source, schedule: str | None) -> str:
    """One mistake, and what the key is, in the schema's words."""
    kind = detail["type"]
    key = _key(detail["loc"], kind in _UNKNOWN_KEY)
    if kind in _UNKNOWN_KEY:
        return f"{source.where(key)}: unknown key.{_unknown(key, source, schedule)}"
    colon = ": "
    if kind == "value_error":
        said = str(detail["ctx"]["error"])
        place, inner = _named(said)
        if inner and (inner[0] in ("network", "output", "wrappers") or keys.find((*key, *inner), schedule)):
            colon, key, said = "", (*key, *inner), said.removeprefix(place)
    entry = keys.find(key, schedule)
    if kind == "missing":
        said = "required, but not given"
    elif kind != "value_error":
        said = refused(detail, key, entry)
    where = (source.where(key) if key else source.name) + colon
    if entry is None or entry.section:
        return where + said
    return f"{where}{said.removesuffix('.')} ({entry.text.removesuffix('.')})"


def _key(location: tuple[int | str, ...], unknown: bool) -> Key:
    """An error's location without pydantic's own markers; the last part of an unknown key may look like one."""
    return tuple(
        part
        for place, part in enumerate(location, 1)
        if isinstance(part, int) or ("[" not in part and part not in _MARKERS) or (unknown and place == len(location))
    )


def _named(said: str) -> tuple[str, Key]:
    """The key that a validator's sentence begins with, as text and as a key below the validator's section."""
    place = re.match(r"[\w.]*\w|", said)[0]  # type: ignore[index]
    return place, tuple(int(part) if part.isdecimal() else part for part in place.split(".") if part)


def refused(detail: ErrorDetails, key: Key, entry: keys.Entry | None) -> str:
    """A value that was found, and those that the schema allows."""
    found = f"found {shown(detail['input'])}; allowed: "
    if entry is None:
        return found + detail["msg"].removeprefix("Input should be ")
    allowed = entry.each if entry.each and isinstance(key[-1], int) else entry.allowed
    names = re.split(", | or ", allowed)
    # A text that looks like one of them is quoted in the file.
    worded = isinstance(detail["input"], str) and detail["input"] not in names
    near = did_you_mean(detail["input"], names) if worded else ""
    finite = "finite " if isinstance(detail["input"], float) and not math.isfinite(detail["input"]) else ""
    return f"{found}{finite}{allowed}.{near}" if near else found + finite + allowed


def _unknown(key: Key, source: Source, schedule: str | None) -> str:
    """The nearest names of a key that is unknown, here or elsewhere, and those that are allowed here."""
    fields = keys.below(key[:-1], schedule)
    if key in _FLAGS:
        return f" {key[0]} is a section of files; on the command line {_FLAGS[key]}"
    if len(key) == 1 and key not in source.overridden:
        fields += [SWEEP, SEARCH]
    known = sorted({*fields, *_OLDER.get(keys.spelled(key[:-1]), ())})
    if (meant := keys.of_others().get(str(key[-1]))) is not None:
        return f" Here that is '{meant}' ({keys.table(None)[meant].text.removesuffix('.')}).{_elsewhere(key)}"
    hint = _elsewhere(key) or did_you_mean(key[-1], known) or _elsewhere(key, similar=True)
    return f"{hint} Allowed here: {', '.join(sorted(fields)) or 'none'}."


def _elsewhere(key: Key, similar: bool = False) -> str:
    """` Did you mean 'agent.x'?` for a key that has its name, or one like it, in another section; else nothing."""
    places = {name: list(paths) for name, paths in keys.places().items()}
    for section, names in _OLDER.items():
        for name in names:
            places.setdefault(name, []).append(f"{section}.{name}")
    like = difflib.get_close_matches(str(key[-1]), places, 1, 0.8) if similar else [str(key[-1])]
    found = [path for name in like for path in places.get(name, []) if path != dotted(key)]
    return f" Did you mean {' or '.join(map(repr, found[:3]))}?" if found else ""
