"""The verbs of the `launch` command about launches that run on a cluster by themselves: follow, stop, pull."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from launcher.cli.flags import Debug, Written
from launcher.ledger.storage import FOLDER
from launcher.run import output

if TYPE_CHECKING:
    from launcher.cluster.jobs import Jobs

Name = Annotated[str, Parameter(name="NAME", help="Name of the launch.")]
Address = Annotated[
    str,
    Parameter(
        help="http://HOST:8265 or ray://HOST:10001; default RAY_ADDRESS.", env_var="RAY_ADDRESS", show_env_var=False
    ),
]


def follow(launch: Name, /, *, address: Address, debug: Debug = False) -> int:
    """Show what a launch on a cluster prints, until it is over."""
    from launcher.cluster.jobs import Jobs

    return watch(Jobs(address), launch)


def stop(launch: Name, /, *, address: Address, debug: Debug = False) -> int:
    """Let a launch on a cluster save, and end it."""
    from launcher.cluster.jobs import Jobs

    print(f"{launch}: {Jobs(address).stop(launch)}; launch resume {launch} --address {address} continues")
    return 0


def pull(
    launch: Name,
    /,
    *,
    address: Address,
    out: Annotated[Written, Parameter(help=f"Folder to put it into; default {FOLDER}.")] = FOLDER,
    debug: Debug = False,
) -> int:
    """Bring the directory of a launch on a cluster here."""
    from launcher.cluster.jobs import Jobs

    print(Jobs(address).pull(launch, out))
    return 0


class _UnreadError(Exception):
    """Nothing that is shown can be written any more; `cli` says why."""


def watch(jobs: Jobs, launch: str, directory: str | None = None) -> int:
    """Show a launch until it is over; Ctrl-C only stops showing."""
    if directory is not None:
        print(f"{launch} runs on {jobs.url} by itself, in {directory} on its head")

    def show(text: str) -> None:
        print(text, end="", flush=True)
        if output.lost():
            raise _UnreadError

    try:
        return jobs.follow(launch, show)
    except _UnreadError:
        return 0
    except KeyboardInterrupt:
        verbs = " or ".join(f"launch {verb} {launch} --address {jobs.url}" for verb in ("follow", "stop"))
        print(f"\n{launch} goes on; {verbs}")
        return 128 + signal.SIGINT
    finally:
        if directory is not None:
            print(f"Bring it here: launch pull {launch} --address {jobs.url}")
