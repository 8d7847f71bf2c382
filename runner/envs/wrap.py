"""Any supported environment as a `VectorEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium

from runner.envs.base import VectorEnv
from runner.errors import UserError


def wrap_env(env: Any) -> VectorEnv:
    """Make any supported environment a `VectorEnv`.

    Args:
        env: an EnvPool pool (`env_type="gymnasium"`), a gymnasium vector environment in any auto-reset mode, a single
            gymnasium environment (which may be many in one, with `num_envs`), or a `VectorEnv`.

    Raises:
        UserError: anything else.
    """
    if isinstance(env, VectorEnv):
        return env
    if any(base.__module__.startswith("envpool.") for base in type(env).__mro__):
        from runner.envs.envpool import EnvPool

        return EnvPool(env)
    if isinstance(env, gymnasium.vector.VectorEnv | gymnasium.Env):
        from runner.envs.gymnasium import GymnasiumVector

        return GymnasiumVector(env)
    raise UserError(
        f"wrap_env: cannot use a {type(env).__module__}.{type(env).__qualname__}; allowed: an EnvPool pool made with "
        'env_type="gymnasium", a gymnasium.vector.VectorEnv, or a gymnasium.Env'
    )
