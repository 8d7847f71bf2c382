"""The rows of TensorBoard's HParams tab: for each trial the settings in which configurations differ, and its seed.

TensorBoard finds columns and last metrics itself in the folders of trials, each of which is a session to it.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from launcher.ledger.configurations import settings_of
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import TrialRow

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

MOST_READ = 1_000
"""Configurations whose settings are read; of more than that only the names are shown."""


class HParams:
    """Settings that differ between the configurations of a launch, from one trial each."""

    def __init__(self, ledger: Ledger) -> None:
        one_each = {row.config: row.id for row in reversed(ledger.trials())}
        if len(one_each) > MOST_READ:
            one_each = {}
        texts = ledger.configurations(list(one_each.values()))
        read = {config: settings_of(texts[trial]) for config, trial in one_each.items()}
        shared = set.intersection(*map(set, read.values())) if read else set()
        differing = {key for key in shared if len({_shown(settings[key]) for settings in read.values()}) > 1}
        self._settings = {
            config: {key: _shown(value) for key, value in settings.items() if key in differing}
            for config, settings in read.items()
        }

    def start(self, row: TrialRow, folder: str, wall_time: float) -> Summary:
        """The first summary in a trial's folder, whose name the tab shows; `wall_time` is in Unix seconds."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        settings = {"configuration": row.config, **self._settings.get(row.config, {}), "seed": row.seed}
        return hparams_pb(settings, folder, wall_time)


def _shown(value: Any) -> bool | int | float | str:
    """A setting as the plugin takes it: truth values, finite numbers, or else texts."""
    plain = isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else json.dumps(value)
