"""The training loop of both backends: draw → collect → learn → note → report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from runner.envs.base import VectorEnv
from runner.training.evaluate import Episode
from runner.training.members import Members
from runner.training.reporting import Interval, diverged_in, due, measured
from runner.training.tracking import Report


def train(
    members: Members,
    env: VectorEnv,
    stop: Callable[[], bool] = lambda: False,
    evaluate: Callable[[], list[Episode]] | None = None,
    until: int | None = None,
) -> Iterator[Report]:
    """Train from where they stand to the configured length; yields whenever something is due.

    The first report comes before any training, empty, once environments and compiled programs are ready.

    Args:
        members, env: a pack and its P·N environments, member-major.
        stop: asked after every update; True ends training there, with a last report and checkpoint.
        evaluate: plays the episodes of `evaluation` with all members, where there are any to play.
        until: timestep at which training pauses, with an evaluation; schedules are still of the configured length.
    """
    backend, config = members.backend, members.pack.static

    def settings() -> AbstractContextManager[None]:
        return backend.settings(members.rules, env.num_envs * config.agent.rollouts)

    with settings():
        collector = backend.begin(members.rules, members.learner, env, members.env_actions, members.draw())
    yield Report([None] * members.pack.trials, checkpoint=False, best=[], diverged=[])
    interval, done = Interval(members.timestep), members.over
    while not done:
        diverged: list[int] = []
        members.change()
        with settings():
            draws = members.draw()
            policy = backend.policy(members.rules, members.learner)
            rollout = collector.collect(policy, draws.noise, draws.random)
            if members.learns:
                members.learner, numbers, finite = backend.learn(
                    members.rules, members.learner, members.whole(rollout), draws, members.alive
                )
                interval.note(numbers, finite)
                diverged = diverged_in(members, rollout, finite)
            # A rollout may be large, and the next one needs its place.
            del rollout
        before = members.advance()
        paused = until is not None and members.timestep >= until
        done = members.over or paused or members.agreed(stop())
        evaluates, saves, writes = due(config, before, members.timestep, evaluate is not None, paused)
        saves |= done or evaluates  # the best agent is the one that scored best, not a later one
        # A checkpoint always comes with a record, so that no interval is open when a run goes on from it.
        if saves or writes or diverged:
            interval.end(collector)
            members.scored(collector.episodes.scores())
            evaluated = None
            if evaluates and evaluate is not None:
                with settings():
                    evaluated = measured(evaluate(), members.pack.trials)
            records = interval.records(members, collector.episodes, diverged, evaluated)
            # Of a run that is evaluated, only evaluations say which agent is best.
            best = members.improved(evaluated) if saves and (evaluated or not evaluate) else []
            yield Report(records, saves, best, diverged)
            # What the caller does with a report is not training time.
            interval = interval.after(members.timestep)
