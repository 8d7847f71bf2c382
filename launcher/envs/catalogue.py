"""The environments that are there by name: EnvPool's tasks and what gymnasium has registered, by family."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from runner.config.schema import EnvConfig
from runner.errors import UserError, did_you_mean

SHOWN = 3
"""Ids of a family that are shown where families are."""


@dataclass(frozen=True)
class Entry:
    """An environment by name.

    Attributes:
        id: as `env.id` has it.
        family: `mujoco.dmc` of EnvPool, `gymnasium.box2d`, or the package that has registered it.
        observations: its space, in a few words; empty where it cannot be made.
        actions: its space.
        policies: classes of policies that can act in it.
        needs: why it cannot be made here.
    """

    id: str
    family: str
    observations: str = ""
    actions: str = ""
    policies: tuple[str, ...] = ()
    needs: str = ""


def families() -> dict[str, list[str]]:
    """Family → ids that `env.id` takes, without making any."""
    from runner.envs.envpool import families as of_envpool
    from runner.envs.named import imports

    imports.load_all()
    found: dict[str, list[str]] = {}
    for name, family in of_envpool().items():
        found.setdefault(family, []).append(name)
    for name, spec in gymnasium.registry.items():
        if isinstance(spec.entry_point, str):  # others only say that they have gone
            family = spec.entry_point.partition(":")[0].replace("gymnasium.envs.", "gymnasium.")
            parts = family.split(".")
            found.setdefault(".".join(parts[: 2 if parts[0] == "gymnasium" else 1]), []).append(f"gymnasium:{name}")
    return {family: sorted(found[family]) for family in sorted(found)}


def matching(pattern: str, known: Mapping[str, Sequence[str]]) -> list[Entry]:
    """Those whose id or family has the pattern in it, or is like it where it has `*` or `?`, in any case.

    Raises:
        UserError: there is none, naming the nearest.
    """
    folded = pattern.casefold()

    def matches(name: str) -> bool:
        return fnmatchcase(name, folded) if re.search(r"[*?\[]", folded) else folded in name

    found = [
        Entry(name, family)
        for family, names in known.items()
        for name in names
        if matches(name.casefold()) or matches(family.casefold())
    ]
    if not found:
        near = did_you_mean(pattern, [*known, *(name for names in known.values() for name in names)])
        raise UserError(f"command line: no environment's name or family is like {pattern!r}.{near}")
    return found


def described(entry: Entry) -> Entry:
    """The same with its spaces, or what it needs."""
    from runner.envs.task import task

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            env = task(EnvConfig.model_validate({"id": entry.id, "num_envs": 1}))
        except UserError as error:
            return Entry(entry.id, entry.family, needs=str(error).removeprefix("env.id: ").removeprefix(f"{entry.id} "))
        env.close()
    seen, taken = in_words(env.observation_space), in_words(env.action_space)
    if env.agents is not None:
        seen = f"{len(env.agents.names)} agents, each {seen}"
    return Entry(entry.id, entry.family, seen, taken, env.actions.policies)


def in_words(space: gymnasium.Space[Any]) -> str:
    """A space in a few words: `Box 4`, `Box 84x84x3 uint8`, `Discrete 6`, `Dict(goal: Box 3, place: Box 2)`."""
    if isinstance(space, Dict):
        parts = ", ".join(f"{key}: {in_words(part)}" for key, part in space.spaces.items())
        return f"Dict({parts})"
    if isinstance(space, Tuple):
        parts = ", ".join(map(in_words, space.spaces))
        return f"Tuple({parts})"
    if isinstance(space, Box | MultiBinary):
        shape = "x".join(map(str, space.shape)) or "number"
        usual = isinstance(space, MultiBinary) or space.dtype == np.float32
        return f"{type(space).__name__} {shape}" if usual else f"Box {shape} {space.dtype}"
    if isinstance(space, Discrete):
        return f"Discrete {space.n}"
    if isinstance(space, MultiDiscrete):
        sizes = space.nvec.ravel().tolist()
        alike = len(set(sizes)) == 1 and len(sizes) > 3
        return f"MultiDiscrete {len(sizes)} of {sizes[0]}" if alike else "MultiDiscrete " + "x".join(map(str, sizes))
    return str(space)


def show_families(console: Console, known: Mapping[str, Sequence[str]]) -> None:
    """Print how many there are of each family, and some of their names."""
    table = Table("family", "ids", "such as", box=None, header_style="bold", pad_edge=False)
    table.columns[1].justify = "right"
    for family, names in known.items():
        table.add_row(family, f"{len(names):,}", ", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])]))
    console.print(table)
    count = sum(map(len, known.values()))
    print(f"\n{count:,} environments; launch envs NAME shows those with NAME in id or family, with their spaces")


def show(console: Console, entries: Sequence[Entry]) -> None:
    """Print spaces and policies of each, or what it needs; of a single one its arguments too."""
    rest = [Column(name, overflow="fold") for name in ("observations", "actions", "policy")]
    # The id is what is typed next.
    table = Table(Column("id", no_wrap=True), *rest, box=None, header_style="bold", pad_edge=False)
    for entry in entries:
        if entry.needs:
            table.add_row(entry.id, Text(entry.needs, style="dim"), "", "")
        else:
            table.add_row(entry.id, entry.observations, entry.actions, " or ".join(entry.policies))
    console.print(table, highlight=False)
    if len(entries) == 1 and ":" not in entries[0].id and not entries[0].needs:
        from runner.envs.envpool import settable

        print("\narguments, keys below env in the file, and their defaults:")
        for name, default in settable(entries[0].id).items():
            print(f"  {name}: {default!r}")
