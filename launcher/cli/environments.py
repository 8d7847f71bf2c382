"""The verbs of the `launch` command about environments: envs, check."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from launcher.cli.flags import Debug, Imports, allow, console


def envs(
    pattern: Annotated[
        str | None, Parameter(name="PATTERN", help="Part of an id or family, or a pattern such as 'Hopper*'.")
    ] = None,
    /,
    *,
    import_: Imports = None,
    as_json: Annotated[bool, Parameter(name="--json", help="A JSON list, with spaces.")] = False,
    debug: Debug = False,
) -> int:
    """List environments; those of a PATTERN with spaces."""
    from launcher.envs import catalogue

    allow(import_)
    known = catalogue.families()
    if pattern is None and not as_json:
        catalogue.show_families(console(), known)
        return 0
    found = [catalogue.described(entry) for entry in catalogue.matching(pattern or "", known)]
    if as_json:
        print(json.dumps([asdict(entry) for entry in found]))
    else:
        catalogue.show(console(), found)
    return 0


def check(
    name: Annotated[str, Parameter(name="ENV", help="my_package:PointEnv, gymnasium:Id, or an id of EnvPool.")],
    /,
    *,
    import_: Imports = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", help="env.key=value, such as env.wrappers.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="A JSON list.")] = False,
    debug: Debug = False,
) -> int:
    """Say what is right and wrong about an environment."""
    from launcher.envs import check as checking
    from runner.config import resolve
    from runner.config.overrides import parse_override
    from runner.errors import UserError

    allow(import_, name)
    settings = []
    for text in set_ or ():
        key, values = parse_override(text)
        if key[0] != "env" or len(key) < 2 or key[1] == "id" or len(values) != 1:
            raise UserError(
                f"command line: --set {text}: allowed: one value of a key below env, but its id, which is {name}"
            )
        settings.append((key, values[0]))
    config, _ = resolve({"env": {"id": name, "num_envs": 64}, "models": {"policy": {}, "value": {}}}, None, settings)
    found = checking.check(config.env)
    if as_json:
        print(json.dumps([finding._asdict() for finding in found]))
    else:
        checking.show(console(), name, found)
    return int(any(finding.level == "wrong" for finding in found))
