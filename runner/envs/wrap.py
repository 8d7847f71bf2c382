"""Any supported environment as a `VectorEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium

from runner.config.numbers import whole
from runner.envs.agents.joint import is_parallel, refuse_turns
from runner.envs.agents.tensors import TensorAgents, is_many_of_several
from runner.envs.agents.vector import of_instance, of_recipe
from runner.envs.base import VectorEnv
from runner.envs.tensors import TensorEnv, is_many
from runner.errors import UserError


def wrap_env(env: Any, num_envs: int | str | None = None, *, wrapper: str = "auto", verbose: bool = True) -> VectorEnv:
    """Make any supported environment a `VectorEnv`.

    Args:
        env: an EnvPool pool (`env_type="gymnasium"`), a gymnasium vector environment in any auto-reset mode, a single
            gymnasium environment, many environments in one (`runner.envs.tensors`), an environment of several agents
            with PettingZoo's parallel API, or a `VectorEnv`; or a class or function that makes one at every call, of
            which packs can be trained.
        num_envs: that are made of a class or function; of skrl's call the wrapper.
        wrapper, verbose: of skrl's call, not read: an environment is known by what it has.

    Raises:
        UserError: anything else.
    """
    if isinstance(num_envs, str) and not num_envs.isdigit():
        num_envs = None
    made = isinstance(env, VectorEnv | gymnasium.Env | gymnasium.vector.VectorEnv) or is_many(env) or is_parallel(env)
    if isinstance(env, type) or (callable(env) and not made):
        from runner.envs.named.recipe import Recipe

        count = None if num_envs is None else whole("wrap_env: num_envs", num_envs)
        return of_recipe(Recipe.of(env), count, wrap_env)
    if num_envs is not None:
        raise UserError(f"wrap_env: num_envs is for a class or function; this {type(env).__qualname__} is made already")
    if isinstance(env, VectorEnv):
        return env
    if any(base.__module__.startswith("envpool.") for base in type(env).__mro__):
        from runner.envs.agents.players import of_pool
        from runner.envs.envpool import EnvPool

        return of_pool(EnvPool(env))
    if is_many_of_several(env):
        return TensorAgents(env)
    if is_parallel(env):
        return of_instance(env)
    refuse_turns(env)
    if is_many(env):
        return TensorEnv(env)
    if isinstance(env, gymnasium.vector.VectorEnv):
        from runner.envs.gymnasium import GymnasiumVector

        return GymnasiumVector(env)
    if isinstance(env, gymnasium.Env):
        from runner.envs.python import Single

        return Single(env)
    raise UserError(
        f"wrap_env: cannot use a {type(env).__module__}.{type(env).__qualname__}; allowed: an EnvPool pool made with "
        'env_type="gymnasium", a gymnasium.vector.VectorEnv, a gymnasium.Env, what has num_envs, reset, step, '
        "single_observation_space and single_action_space, or PettingZoo's parallel API: possible_agents, and "
        "observation_space and action_space as functions of an agent"
    )
