"""An environment by its name, `env.id`: the one place that chooses what makes it.

| env.id | what it is |
| --- | --- |
| `CartPole-v1` | EnvPool's task, of one agent or several; other keys of `env` are its arguments |
| `gymnasium:CartPole-v1` | an id that gymnasium knows, after the imports that the command line asks for |
| `my_package:MyPoint-v0` | the same after an import of `my_package`: gymnasium's own form |
| `my_package.envs:PointEnv` | a class or function there, called with the other keys of `env` |
| `mpe2.simple_spread_v3:parallel_env` | the same; environments of several agents have PettingZoo's parallel API |
"""

from __future__ import annotations

from runner.config.schema import EnvConfig
from runner.envs.base import VectorEnv


def task(env: EnvConfig) -> VectorEnv:
    """The environment of a configuration: its spaces are known, `seeded` makes as many as there are seeds.

    Raises:
        UserError: it is unknown, may not be imported, cannot be made, or takes other arguments.
    """
    name, count = str(env.id), env.num_envs or 1
    if env.of_python:
        from runner.envs.agents.vector import of_recipe
        from runner.envs.named.recipe import read
        from runner.envs.wrap import wrap_env

        return of_recipe(read(name, env.arguments, env.wrappers), count, wrap_env)
    from runner.envs.agents.players import of_task
    from runner.envs.envpool import EnvPoolTask

    return of_task(EnvPoolTask(name, count, env.arguments | ({"wrappers": env.wrappers} if env.wrappers else {})))
