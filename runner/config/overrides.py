"""`a.b.c=value` from the command line: parsed as YAML, applied over the file, always winning; ranges of numbers."""

from __future__ import annotations

import decimal
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from runner.config import keys
from runner.config.load import Key, dotted, parse_scalar
from runner.config.numbers import LONGEST, number
from runner.errors import UserError, did_you_mean, shown

LONGEST_RANGE = 100_000
"""Values of one range."""
Distribution = Literal["uniform", "log", "int", "int-log"]
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)
CHOICE = "choice"
DIGITS = 6
"""Significant digits of a number that is drawn: those that its trial's name shows."""
_ALLOWED = (
    "allowed: low..high such as 0.1..0.4 (uniform) or 1e-5..1e-2 (an exponent: log), with a distribution in front "
    "if it is another, such as log:0.001..0.1, int:2..8, int-log:16..512"
)


def parse_key(name: str) -> Key | None:
    """`a.b.0` → `('a', 'b', 0)`; None where a part is empty."""
    key = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
    return key if all(part != "" for part in key) else None


def parse_override(text: str, flag: str = "--set", ranges: bool = False) -> tuple[Key, list[Any]]:
    """The key path and the one or more values of `a.b=value`; the flag that it was typed after is for errors.

    Only a comma outside brackets and quotes makes a list of alternatives: `a=1,2` is two values, `a=[64,64]` one.
    A range with a count makes as many as it counts: see `expand_range`; with `ranges`, one without is a `Range`.
    """
    name, equals, value = text.partition("=")
    key = parse_key(name)
    if not equals or key is None:
        raise UserError(f"command line: {flag} {text!r}: write key=value, such as agent.learning_rate=3e-4")
    values: list[Any] = []
    try:
        if ranges and len(split_top_level(value)) == 1 and (drawn := read_range(value, key)) is not None:
            return key, [drawn]
        for part in split_top_level(value):
            values += expand_range(part) or [parse_scalar(part)]
    except UserError as error:
        what = str(error).removeprefix("command line:1: ").removeprefix("command line: ")
        raise UserError(f"command line: {flag} {text!r}: {what}") from None
    return key, values


def expand_range(text: str) -> list[int | float] | None:
    """The values of `first..last/count`, both ends included; None where the text is no range.

    A text that begins with a number and two dots is a range. Where an end is written with an exponent, its values have
    equal ratios (`1e-5..1e-2/4`: 1e-5, 1e-4, 1e-3, 1e-2), else equal steps (`0..1/5`: 0, 0.25, 0.5, 0.75, 1). They
    are whole numbers where ends and steps are. The last may be the smaller one.
    """
    text = text.strip()
    first, dots, rest = text.partition("..")
    if not dots or number(first[:LONGEST]) is None:
        return None
    last, _, steps = rest.partition("/")
    ends = [end for end in map(number, (first, last)) if end is not None and math.isfinite(end)]
    wanted = number(steps)
    count = wanted if isinstance(wanted, int) and 2 <= wanted <= LONGEST_RANGE else 0
    whole = all(isinstance(end, int) for end in ends)
    logarithmic = not whole and "e" in (first + last).casefold()
    wrong = None
    if len(ends) < 2 or len(text) > LONGEST:
        wrong = "a range needs a number at both ends"
    elif not count:
        wrong = f"a range needs a count, from 2 to {LONGEST_RANGE:,}"
    elif ends[0] == ends[1]:
        wrong = "the ends of a range must differ"
    elif logarithmic and min(ends) <= 0:
        wrong = "with an exponent a range has equal ratios, and its ends must be above 0"
    if wrong is not None:
        raise UserError(
            f"found {text[:LONGEST]!r}; {wrong}; allowed: first..last/count, such as 0..1/5 (equal steps) "
            "or 1e-5..1e-2/4 (an exponent: equal ratios)"
        )
    # Decimal, so that the values are those that a person would write: 0.3 and 1e-4, not 0.30000000000000004.
    with decimal.localcontext(prec=50):
        low, high = (
            Decimal(end if isinstance(end, int) else word) for end, word in zip(ends, (first, last), strict=True)
        )
        if logarithmic:
            return [float(low * (high / low) ** (Decimal(i) / (count - 1))) for i in range(count)]
        values = [low + (high - low) * i / (count - 1) for i in range(count)]
        whole = whole and (high - low) % (count - 1) == 0
        return [int(value) if whole else float(value) for value in values]


def split_top_level(text: str) -> list[str]:
    """Split at commas that are outside brackets, braces and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for position, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def apply(data: dict[str, Any], key: Key, value: Any, where: str = "command line") -> None:
    """Set `value` at `key` in place, making the mappings on the way; `where` it is written, for errors."""
    node: Any = data
    for depth, part in enumerate(key, 1):
        path = dotted(key[:depth])
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise UserError(f"{where}: {path}: the list has {len(node)} entries, 0 to {len(node) - 1}")
        elif isinstance(node, dict):
            part = str(part)
        else:
            raise UserError(f"{where}: {path}: {path.rpartition('.')[0]} is a single value without keys")
        if depth == len(key):
            node[part] = value
            return
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[part]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, of which a search draws by a distribution."""

    low: float
    high: float
    distribution: Distribution

    @property
    def whole(self) -> bool:
        """Its numbers are whole."""
        return self.distribution in ("int", "int-log")

    @property
    def logarithmic(self) -> bool:
        """Equal ratios are equally likely."""
        return self.distribution in ("log", "int-log")

    def at(self, share: float) -> int | float:
        """The number below which a share, from 0 to 1, of all draws is."""
        half = 0.5 if self.whole else 0.0
        low, high = self.low - half, self.high + half
        value = low * (high / low) ** share if self.logarithmic else low + (high - low) * share
        return self.rounded(value)

    def rounded(self, value: float) -> int | float:
        """The number of the range that is nearest to a value, of as many digits as names show."""
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def grid(self, count: int = 5) -> str:
        """A few numbers of the range as `--set` takes them, of the spacing by which it is drawn from."""
        if self.distribution == "int-log":
            ratios = (self.low * (self.high / self.low) ** (i / (count - 1)) for i in range(count))
            return ",".join(str(value) for value in dict.fromkeys(map(self.rounded, ratios)))
        if self.whole:  # what divides the range, since steps are whole
            count = next(n for n in range(count, 1, -1) if (self.high - self.low) % (n - 1) == 0)
        ends = (Decimal(repr(end)).normalize() for end in (self.low, self.high))
        return "..".join(format(end, "e" if self.logarithmic else "f") for end in ends) + f"/{count}"

    def __str__(self) -> str:
        return f"{self.distribution}:{self.low:g}..{self.high:g}"


def read_range(text: str, key: Key) -> Range | None:
    """The range of `low..high` for a key, or of `log:low..high`; None where the text is none, as `0..1/5` is none.

    Without a distribution an end with an exponent means log, as in `1e-5..1e-2/4`, and otherwise uniform. Numbers are
    whole where the key takes no others.
    """
    word, colon, rest = text.strip().partition(":")
    if not colon:
        word, rest = "", text.strip()
    low, dots, high = rest.partition("..")
    named = word in DISTRIBUTIONS
    if not dots or "/" in rest or not (named or number(low[:LONGEST]) is not None):
        return None
    if colon and not named:
        if "number" not in (_takes(key) or ""):
            return None
        near = did_you_mean(word, DISTRIBUTIONS)
        raise UserError(f"found {shown(text, 80)}; no distribution is named {word!r}.{near} {_ALLOWED.capitalize()}")
    if not word:
        word = "log" if "e" in rest.casefold() and "0x" not in rest.casefold() else "uniform"
        if _only_whole(key, low, high):
            word = "int-log" if word == "log" else "int"
    return _range(word, low, high, text, key)


def of_block(block: Mapping[str, Any], key: Key) -> Range | list[Any] | None:
    """The range of a block such as {distribution: log, low: 1e-5, high: 1e-2}, or the values of a choice.

    None where the block is none.
    """
    if "distribution" not in block:
        return None
    word = block["distribution"]
    if word not in (*DISTRIBUTIONS, CHOICE):
        near = did_you_mean(word, (*DISTRIBUTIONS, CHOICE))
        allowed = ", ".join((*DISTRIBUTIONS, CHOICE))
        raise UserError(f"distribution: found {shown(word, 80)}; allowed: {allowed}.{near}")
    names = {"distribution", "values"} if word == CHOICE else {"distribution", "low", "high"}
    for name in block:
        if name not in names:
            raise UserError(
                f"{name}: unknown key.{did_you_mean(name, names)} Allowed here: {', '.join(sorted(names))}."
            )
    for name in sorted(names):
        if name not in block:
            raise UserError(f"{name}: required, but not given; of {word}: {', '.join(sorted(names))}")
    if word == CHOICE:
        values = block["values"]
        if not isinstance(values, list) or not values:
            raise UserError(f"values: found {shown(values, 80)}; allowed: a list of alternatives such as [1e-4, 3e-4]")
        return values
    return _range(word, block["low"], block["high"], f"{word}:{block['low']}..{block['high']}", key)


def _range(word: str, first: object, last: object, text: str, key: Key) -> Range:
    """The range with these ends, checked."""
    ends = [number(end) if isinstance(end, str) else end for end in (first, last)]
    real = [e for e in ends if isinstance(e, int | float) and not isinstance(e, bool) and math.isfinite(e)]
    wrong = None
    if len(real) < 2 or len(text) > LONGEST:
        wrong = "a range needs a number at both ends"
    elif real[0] >= real[1]:
        wrong = "the first end must be below the last"
    elif "log" in word and real[0] <= 0:
        wrong = f"equal ratios ({word}) need ends above 0"
    elif "int" in word and not all(isinstance(end, int) or end.is_integer() for end in real):
        wrong = f"{word} needs whole ends"
    elif (takes := _takes(key)) is not None and "number" not in takes:
        wrong = f"the key takes no numbers but {takes}; a choice is a list of alternatives, such as a,b"
    if wrong is not None:
        raise UserError(f"found {shown(text, 80)}; {wrong}; {_ALLOWED}")
    low, high = (int(end) if "int" in word else float(end) for end in real)
    return Range(low, high, next(name for name in DISTRIBUTIONS if name == word))


def _takes(key: Key) -> str | None:
    """The values that a key takes, in words; None of one that the schema does not know or that takes anything."""
    entry = next((entry for entry in keys.every() if entry.key == keys.spelled(key)), None)
    return None if entry is None or keys.ANYTHING in entry.allowed else entry.allowed


def _only_whole(key: Key, first: str, last: str) -> bool:
    """A key takes only whole numbers; of one that is unknown, the ends tell."""
    takes = _takes(key)
    if takes is None:
        return isinstance(number(first), int) and isinstance(number(last), int)
    kinds = [way for way in takes.split(" or ") if "number" in way]
    return bool(kinds) and all(way.startswith("whole number") for way in kinds)
