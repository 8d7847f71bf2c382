"""Exceptions that say whose fault it is: the user can mend this, or an environment of the user's failed."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable


class UserError(ValueError):
    """Bad key, value, file, action, checkpoint or machine.

    The message is one paragraph that says what is wrong, where, and what would be right. Programs print it
    without a traceback and exit with status 2.
    """


class FailedEnvironmentError(Exception):
    """One environment raised, ended its process or does not answer; members of the pack without it may go on.

    Attributes:
        environment: its number among those that were stepped together.
        envs: how many these were.
        trial: whose it is, for a launcher, which also trains the others.
    """

    def __init__(self, words: str, environment: int, envs: int) -> None:
        super().__init__(words, environment, envs)
        self.environment, self.envs = environment, envs
        self.trial: str | None = None

    def __str__(self) -> str:
        return str(self.args[0])

    def member(self, members: int) -> int:
        """The member whose environment it is, of so many that have equally many each, one after the other."""
        return self.environment * members // self.envs


def last_words(error: BaseException) -> str:
    """The last line of a traceback, and the file and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    words = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{words} ({error.filename}:{error.lineno})"
    return f"{words} ({frames[-1].filename}:{frames[-1].lineno})" if frames else words


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
