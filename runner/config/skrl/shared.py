"""Layers that both networks read: those of the role that is listed first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_LAYERS = ("network", "input_shape", "hiddens", "hidden_activation")


def unread(models: Mapping[str, Any]) -> Iterator[str]:
    """Keys of the second role of shared layers that say something else than the first one's, which alone are built.

    An empty one says nothing.
    """
    roles = [role for role in models if role in ("policy", "value") and isinstance(models[role], dict)]
    if models.get("separate") is not False or len(roles) != 2:
        return
    first, second = roles
    for name in _LAYERS:
        if name in models[first] and models[second].get(name) and models[first][name] != models[second][name]:
            yield f"models.{second}.{name} (separate: False: both read that of {first})"
