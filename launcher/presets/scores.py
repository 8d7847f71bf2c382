"""The scores that presets have reached, as `tests/benchmarks/scores.py` has written them, beside published ones.

Numbers are compared with numbers of the same protocol only: the training return with a training return, one run's
evaluation with that of one run of ours, the one of seed 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from launcher.presets.index import FOLDER, Preset, presets

SCORES, REFERENCES = FOLDER / "scores.json", FOLDER / "references.json"
PROTOCOLS = {
    "training": "mean return of the last 100 training episodes, mean over seeds",
    "one run": "mean return of the evaluation of one run",
}


@dataclass(frozen=True)
class Reference:
    """A published score: how it was measured, after how many env steps, over how many seeds, and by whom."""

    protocol: str
    score: float
    env_steps: int
    seeds: int
    source: str
    url: str


@dataclass(frozen=True)
class Row:
    """A preset, what it has reached (empty where nobody has measured), and what others have."""

    preset: Preset
    measured: Mapping[str, Any]
    references: tuple[Reference, ...]

    @property
    def seeds(self) -> str:
        """The number of seeds, and of those that diverged, which are in no number."""
        return f"{len(self.measured['training']['scores'])}" + (
            f" ({self.measured['diverged']} diverged)" if self.measured["diverged"] else ""
        )

    def statistic(self, kind: str) -> str:
        """The interquartile mean of the `training` or `evaluation` with its interval, which few seeds do not have."""
        found = self.measured[kind]
        interval = found["interval"] and f" [{', '.join(map(number, found['interval']))}]"
        return number(found["iqm"]) + (interval or "")

    def same_as(self, reference: Reference) -> float:
        """Our number of the protocol of a reference."""
        if reference.protocol == "training":
            scores = self.measured["training"]["scores"]
            return float(sum(scores) / len(scores))
        return float(self.measured["evaluation"]["scores"][0])

    def data(self) -> dict[str, Any]:
        """For JSON."""
        about = {"name": self.preset.name, "task": self.preset.task, "family": self.preset.family}
        return {**about, "measured": self.measured or None, "references": [vars(one) for one in self.references]}


def number(value: float) -> str:
    """A return as people read it, to about four digits."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


@cache
def rows() -> tuple[Row, ...]:
    """One for each preset."""
    return tuple(_rows())


def _rows() -> Iterator[Row]:
    measured, published = (json.loads(path.read_text()) for path in (SCORES, REFERENCES))
    for preset in presets():
        own = published.get(preset.name, ())
        yield Row(preset, measured.get(preset.name, {}), tuple(Reference(**one) for one in own))
