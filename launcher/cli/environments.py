"""The verbs of the `launch` command about environments: envs."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from launcher.cli.flags import Debug, console


def envs(
    pattern: Annotated[
        str | None, Parameter(name="PATTERN", help="Part of an id or family, or a pattern such as 'Hopper*'.")
    ] = None,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="A JSON list, with spaces.")] = False,
    debug: Debug = False,
) -> int:
    """List environments; those of a PATTERN with spaces."""
    from launcher.envs import catalogue

    known = catalogue.families()
    if pattern is None and not as_json:
        catalogue.show_families(console(), known)
        return 0
    found = [catalogue.described(entry) for entry in catalogue.matching(pattern or "", known)]
    if as_json:
        print(json.dumps(catalogue.as_data(found)))
    else:
        catalogue.show(console(), found)
    return 0
