"""The one exception that means: the user can mend this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad key, value, file, action, checkpoint or machine.

    The message is one paragraph that says what is wrong, where, and what would be right. Programs print it
    without a traceback and exit with status 2.
    """


def shown(value: object, longest: int = 200) -> str:
    """A wrong value for a message, cut after `longest` characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def nearest(word: object, allowed: Iterable[str], count: int = 3) -> list[str]:
    """The names of `allowed` that look most like `word`, best first, ignoring case; may be empty."""
    by_folded = {name.casefold(): name for name in allowed}
    return [by_folded[m] for m in difflib.get_close_matches(str(word).casefold(), by_folded, count, 0.6)]


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """` Did you mean 'x' or 'y'?` with a leading space, or nothing when no name is near."""
    names = nearest(word, allowed)
    return f" Did you mean {' or '.join(repr(n) for n in names)}?" if names else ""
