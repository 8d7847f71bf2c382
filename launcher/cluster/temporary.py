"""The folder of Ray's sockets and logs: where people want their temporary files, if that can be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runner.errors import UserError

LONGEST = 107 - len("/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store")
"""Bytes that the folder's name may have: the path of a socket in it has at most 107."""
LEAST_FREE = 50_000_000
"""Bytes that must be free there: Ray's logs."""
SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def ray_folder(environment: Mapping[str, str] = os.environ, others: Sequence[str] = SHORT) -> Path:
    """The folder where Ray would put its files, by RAY_TMPDIR or TMPDIR, or one of this user's that can take them."""
    wrong = []
    for folder in _candidates(environment, others):
        reason = _unfit(folder)
        if reason is None:
            return folder
        wrong.append(f"{folder}: {reason}")
    raise UserError(
        "\n  ".join(["no folder for Ray's sockets and logs; set RAY_TMPDIR to a short one with room:", *wrong])
    )


def _candidates(environment: Mapping[str, str], others: Sequence[str]) -> Iterator[Path]:
    base = environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or others[0]
    yield Path(base).absolute() / "ray"
    # Not shared with other users, who cannot write there.
    yield from (Path(other) / f"ray-{os.getuid()}" for other in others)


def _unfit(folder: Path) -> str | None:
    """The reason why Ray could not work in a folder, which is made; None if it can."""
    length = len(os.fsencode(folder))
    if length > LONGEST:
        return f"{length} bytes long, at most {LONGEST} are possible"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    if not os.access(folder, os.W_OK | os.X_OK):
        return "not writable"
    if free < LEAST_FREE:
        return f"{free / 1e6:.0f} MB free, {LEAST_FREE / 1e6:.0f} MB needed"
    return None
