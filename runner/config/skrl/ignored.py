"""Keys in a file of skrl 1.x that that skrl does not read.

skrl 1.x updates its defaults with whatever a file has, so that it takes unknown keys without a word; skrl 2.x refuses
them. Here they are told, and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.config import keys
from runner.config.load import Key, Source, dotted
from runner.config.marks import Mark, marked
from runner.config.schema import Agent
from runner.config.skrl.eras import Era
from runner.errors import nearest


def leave_out(data: dict[str, Any], era: Era, source: Source, ignored: Callable[[str], None]) -> None:
    """Take out of a translated file of skrl 1.x, in place, what that skrl ignores.

    Left for the schema to refuse is what the command line sets, what skrl hands to a function that refuses unknown
    arguments, and any unknown key beside which one is missing that skrl needs: it may be that one, misspelt. `ignored`
    takes what is left out, with the reason, for the user to be told.
    """

    younger = set(marked(Agent, Mark.LATER))

    def take_out(block: Any, key: Key, *needed: str) -> None:
        if not isinstance(block, dict) or not all(name in block for name in needed):
            return
        known = keys.below(key)
        for name in [name for name in block if name not in known]:
            path = (*key, name)
            if not any(chosen[: len(path)] == path for chosen in source.overridden):
                del block[name]
                near = "".join(f"; did you mean {one!r}?" for one in nearest(name, set(known) - younger, 1))
                ignored(f"{dotted(path)} (skrl 1.x ignores it{near})")

    take_out(data, (), "models", "agent", "trainer")
    agent, models = (data[name] if isinstance(data.get(name), dict) else {} for name in ("agent", "models"))
    take_out(agent, ("agent",))
    take_out(agent.get("experiment"), ("agent", "experiment"))
    take_out(data.get("trainer"), ("trainer",))
    # Shared layers of a Runner are of exactly two roles; Orbit's scripts take the two that they know.
    separate = models.get("separate", True) is not False
    if separate or era is Era.ORBIT:
        take_out(models, ("models",), "separate", "policy", "value")
    for role in ("policy", "value"):
        model = models[role] if isinstance(models.get(role), dict) else {}
        network = model.get("network")
        items = [item for item in network if isinstance(item, dict)] if isinstance(network, list) else []
        for index, item in enumerate(items):
            take_out(item, ("models", role, "network", index), "name", "input", "layers")
        # Up to skrl 1.2 a separate model refuses unknown arguments; later it builds another model where there is none.
        if any(item.get("layers") for item in items) and not (era is Era.ORBIT and separate):
            take_out(model, ("models", role), "output")
