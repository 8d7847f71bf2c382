"""Random streams that are functions of (seed, purpose, draw): nothing to store, nothing shared between members."""

from __future__ import annotations

import numpy as np

PURPOSES = {"update": 1, "act": 2}


def stream_seed(seed: int, purpose: str, draw: int) -> int:
    """Seed of a generator, 0 to 2⁶³ − 1: the draw-th stream of a member for a purpose.

    Args:
        seed: the member's seed.
        purpose: "update" (rollout and minibatches of one update) or "act" (actions outside training).
        draw: number of the update, or of the call.
    """
    return int(np.random.SeedSequence((seed, PURPOSES[purpose], draw)).generate_state(1, np.uint64)[0] >> 1)
