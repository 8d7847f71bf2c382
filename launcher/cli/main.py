"""Entry of the `launch` command: exit statuses, and every error as one paragraph.

It imports next to nothing before the handlers are in place, so that Ctrl-C is quiet from the first moment on.
"""

from __future__ import annotations

import faulthandler
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from launcher.run import import_path, output

if TYPE_CHECKING:
    from cyclopts import CycloptsError


class _Terminated(BaseException):
    """A signal of `ENDING`, before or after the launch handles signals itself; its number is the argument."""


ENDING: dict[int, str] = {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
"""Signals that end the program in good order, and what is said then."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 all is well; 1 something failed after the start, or diverged; 2 bad input; 129, 130 and 143 interrupted.
    """
    if arguments is None:
        output.guard()
        faulthandler.enable()  # native code that ends the process says where
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    ours = threading.current_thread() is threading.main_thread()
    # What is ignored from the start stays so: `nohup` wants it.
    handled = [number for number in ENDING if ours and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _terminate) for number in handled}
    try:
        if arguments is None:
            import_path.forget_folder()
        from runner.envs.named import imports

        with imports.scope():
            return _delivered(_run(tokens))
    except KeyboardInterrupt:
        _say("interrupted")
        return 128 + signal.SIGINT
    except (_Terminated, SystemExit) as error:
        # Ray's handler, which is in place from its start until the launch handles signals, exits with the number.
        number = error.code if isinstance(error, SystemExit) else error.args[0]
        if not isinstance(number, int) or number not in ENDING:
            raise
        _say(ENDING[number])
        return 128 + number
    except Exception as error:
        if "--debug" in tokens:
            import traceback

            traceback.print_exc()
        status, text = _explained(error, tokens)
        _say(f"error: {text}")
        return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(tokens: list[str]) -> int:
    from launcher.cli.commands import app

    result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return int(result or 0)


def _delivered(status: int) -> int:
    """The exit status, once all that was printed is written: what is cut short is no success."""
    error = output.lost()
    if error is None or isinstance(error, BrokenPipeError):  # whoever read it has seen enough
        return status
    _say(f"error: stdout cannot be written: {error.strerror}")
    return status or 1


def _explained(error: Exception, tokens: Sequence[str] = ()) -> tuple[int, str]:
    """Exit status and message."""
    from cyclopts import CycloptsError

    from runner.envs.named.imports import ImportRefusedError
    from runner.errors import UserError

    # An error in another process comes wrapped, with that process's traceback as its text.
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        error = cause
    if isinstance(error, CycloptsError):
        verb = " ".join(["launch", *(error.command_chain or ())])
        return 2, f"command line: {str(error).strip()}{_elsewhere(error)} See {verb} --help."
    if isinstance(error, ImportRefusedError):
        return 2, f"{error}: {shlex.join(['launch', *tokens, *error.flags])}"
    if isinstance(error, UserError):
        return 2, str(error)
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, OSError):
        text += " (--debug shows where)"
    return 1, text


def _elsewhere(error: CycloptsError) -> str:
    """Names of the commands that have the flag which this one has not, as a sentence."""
    from cyclopts import UnknownOptionError

    from launcher.cli.commands import app

    if not isinstance(error, UnknownOptionError) or error.token is None:
        return ""
    flag = (error.token.keyword or error.token.value).partition("=")[0]
    verbs = {"launch CFG": app, **{f"launch {name}": app[name] for name in app if name[0] != "-" and app[name].show}}
    having = [verb for verb, own in verbs.items() if any(flag in x.names for x in own.assemble_argument_collection())]
    return f" {flag} is a flag of {', '.join(having)}." if having else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise _Terminated(number)


if __name__ == "__main__":
    sys.exit(main())
