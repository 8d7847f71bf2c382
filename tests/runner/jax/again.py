"""A short run as a program: with the programs that another process compiled, and compiled anew."""

from __future__ import annotations

import json

from runner.jax import Runner
from tests.runner.builders import TASKS, fingerprint, make_config, make_env


def run() -> str:
    """Fingerprint after three updates of Pendulum."""
    config = make_config({"trainer.timesteps": 24})
    runner = Runner(make_env("Pendulum-v1", 3, TASKS["Pendulum-v1"][1]), config, threads=1)
    for _ in runner.reports():
        pass
    return fingerprint(runner.states()[0])


def main() -> None:
    """Print fingerprints, and how many programs were loaded for the first and compiled for the second, as JSON."""
    import jax
    from jax import monitoring

    hits: list[str] = []
    monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
    loaded = run()
    found = len(hits)
    settings = jax.config
    settings.update("jax_enable_compilation_cache", False)
    jax.clear_caches()
    print(json.dumps({"loaded": loaded, "found": found, "compiled": run(), "found after": len(hits) - found}))


if __name__ == "__main__":
    main()
