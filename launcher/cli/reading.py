"""The verbs of the `launch` command that only read: report, status, logs, list, and keys."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from launcher.cli.flags import Debug, Directory, Launches, Written, console
from launcher.plan.resources import Whole
from launcher.watch import launches


def report(
    *directories: Annotated[
        Written, Parameter(name="DIR", help="Launch directories; several make one comparison; default the latest.")
    ],
    out: Annotated[Written | None, Parameter(help="Page to write; default report.html in the directory.")] = None,
    debug: Debug = False,
) -> int:
    """Write one page that tells what launches have found."""
    from launcher.report import write

    print(write(directories or [launches.latest()], out))
    return 0


def status(
    directory: Directory = None,
    /,
    *,
    out: Launches = None,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON object, with all trials.")] = False,
    debug: Debug = False,
) -> int:
    """Show how a launch stands, while it runs or after."""
    from launcher.run import session
    from launcher.watch import status as view
    from launcher.watch.standing import read

    standing = read(launches.chosen(directory, out))
    if as_json:
        print(json.dumps(view.describe(standing), allow_nan=False))
        return 0
    view.show(console(), standing)
    if not standing.running:
        states = {row.trial.state for row in standing.rows}
        session.say_how_to_continue(console(), standing.directory, states, standing.search)
    return 0


def logs(
    directory: Directory = None,
    trial: Annotated[str | None, Parameter(name="TRIAL", help="Its name, or how no other's begins.")] = None,
    /,
    *,
    out: Launches = None,
    attempt: Annotated[Whole | None, Parameter(help="Number of an attempt; default the last one.")] = None,
    tail: Annotated[Whole, Parameter(help="Lines from the end.")] = 100,
    debug: Debug = False,
) -> int:
    """Print the end of a trial's last log; without TRIAL, list all."""
    from launcher.watch import logs as view
    from launcher.watch.standing import read

    if directory is not None and trial is None and directory.name == str(directory) and not directory.exists():
        directory, trial = None, str(directory)  # one word: a trial of the latest launch
    standing = read(launches.chosen(directory, out))
    if trial is None and attempt is None:
        view.list_logs(standing)
    else:
        view.show_log(standing, trial, attempt, tail)
    return 0


def list_(
    out: Annotated[Written, Parameter(help=f"Folder of launches; default {launches.FOLDER}.")] = launches.FOLDER,
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="A JSON list.")] = False,
    debug: Debug = False,
) -> int:
    """List launches, the latest first."""
    found = list(launches.describe(out))
    if as_json:
        print(json.dumps(found))
    elif found:
        launches.show(console(), found)
    else:
        print(f"There is no launch in {out.absolute()}")
    return 0


def keys(
    pattern: Annotated[str, Parameter(name="PATTERN", help="Part of a key or of what it is; default all keys.")] = "",
    /,
    *,
    debug: Debug = False,
) -> int:
    """Explain keys of a configuration: values and defaults."""
    from launcher.search.settings import Search
    from runner.config.keys import entries_of, search

    found = search(pattern, entries_of(Search, "search."))
    print("\n".join(f"{entry.line}\n    {entry.text}" for entry in found))
    return 0
