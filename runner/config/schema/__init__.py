"""The canonical configuration: skrl 2.x names, every default written out, unknown keys forbidden."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from runner.config.marks import Mark
from runner.config.models import Models
from runner.config.numbers import Int
from runner.config.schema.agent import Agent, is_a2c, is_class
from runner.config.schema.sections import EnvConfig, Evaluation, Memory, Trainer
from runner.config.section import Section, null_to_empty

__all__ = ["Agent", "Config", "EnvConfig", "is_a2c", "is_class"]


class Config(Section):
    """One resolved configuration."""

    seed: Annotated[Annotated[Int, Field(ge=0, lt=2**63)] | None, Mark.SEED] = 0
    """Number that everything random follows from; null: one of the operating system's."""
    backend: Literal["auto", "torch", "jax"] = "auto"
    """Framework; auto: JAX on CPUs, torch on GPUs and for convolutions."""
    compile: Literal["auto"] | bool = "auto"
    """Compiling of the update by torch; auto: where the run is long enough."""
    env: Annotated[EnvConfig, BeforeValidator(null_to_empty)] = Field(default_factory=EnvConfig)
    """The environment."""
    models: Models
    """The networks."""
    memory: Memory = Field(default_factory=lambda: Memory.model_validate({}))
    """skrl's rollout buffer."""
    agent: Agent = Field(default_factory=lambda: Agent.model_validate({}))
    """The algorithm and its numbers."""
    trainer: Trainer = Field(default_factory=lambda: Trainer.model_validate({}))
    """Length of the training."""
    evaluation: Annotated[Evaluation, Mark.OUTPUT] = Field(default_factory=Evaluation)
    """Evaluations while training."""

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        agent, trainer = self.agent, self.trainer
        if trainer.timesteps < agent.rollouts:
            raise ValueError(
                f"trainer.timesteps {trainer.timesteps} is less than one rollout (agent.rollouts {agent.rollouts}): "
                "nothing would be learned"
            )
        if trainer.timesteps - agent.starts < agent.rollouts:
            raise ValueError(
                f"trainer.timesteps {trainer.timesteps} leave no rollout to learn from after agent.random_timesteps "
                f"{agent.random_timesteps} and agent.learning_starts {agent.learning_starts}"
            )
        begins = (self.updates - 1) * agent.rollouts
        if agent.changes and agent.changes[-1].at > begins:
            raise ValueError(
                f"agent.changes.{len(agent.changes) - 1}.at {agent.changes[-1].at}: the last update begins at timestep "
                f"{begins} (trainer.timesteps {trainer.timesteps}, agent.rollouts {agent.rollouts}), so nothing would "
                f"change; allowed: 1 to {begins}"
            )
        if agent.sequence_length is not None and not self.models.recurrent:
            raise ValueError(
                f"agent.sequence_length {agent.sequence_length}: no network has a recurrent layer (lstm, gru); "
                "allowed: null"
            )
        if agent.rollouts % self.sequence:
            fits = ", ".join(str(n) for n in range(1, agent.rollouts + 1) if agent.rollouts % n == 0)
            raise ValueError(
                f"agent.sequence_length {self.sequence} does not divide agent.rollouts {agent.rollouts}; "
                f"allowed: {fits}"
            )
        if agent.cls == "MAPPO" and not self.models.value.reads("STATES"):
            own = "" if self.models.separate else " of its own (separate: True)"
            raise ValueError(
                "models.value.network: agent.class MAPPO learns values of the shared state, which no container reads; "
                f"allowed: a container{own} with input: STATES, or agent.class IPPO"
            )
        if self.env.num_envs is not None:
            self.check_mini_batches(self.env.num_envs)
        if self.memory.memory_size not in (-1, agent.rollouts) and self.memory.memory_size >= 0:
            raise ValueError(
                f"memory.memory_size {self.memory.memory_size} must be -1 or agent.rollouts ({agent.rollouts}): "
                "PPO learns from exactly one rollout"
            )
        return self

    @property
    def updates(self) -> int:
        """Whole rollouts in `trainer.timesteps`; steps of an unfinished rollout could not be learned from."""
        return self.trainer.timesteps // self.agent.rollouts

    @property
    def length(self) -> int:
        """Timesteps of all updates."""
        return self.updates * self.agent.rollouts

    @property
    def env_steps(self) -> int:
        """Steps of all environments in all updates."""
        return self.length * (self.env.num_envs or 0)

    @property
    def sequence(self) -> int:
        """Rows that are learned from together, in the order of time: a rollout's or fewer; 1 of what has no memory."""
        return (self.agent.sequence_length or self.agent.rollouts) if self.models.recurrent else 1

    def check_mini_batches(self, num_envs: int) -> None:
        """A minibatch that would be empty is refused.

        Raises:
            ValueError: there are more than rows, or sequences, of a rollout.
        """
        agent, most = self.agent, self.agent.rollouts // self.sequence * num_envs
        if agent.mini_batches > most:
            what, each = ("rows", "") if self.sequence == 1 else ("sequences", f" / sequence_length {self.sequence}")
            raise ValueError(
                f"agent.mini_batches {agent.mini_batches} is more than the {most} {what} of a rollout "
                f"(agent.rollouts {agent.rollouts}{each} x num_envs {num_envs}); allowed: 1 to {most}"
            )

    def interval(self, name: Literal["write_interval", "checkpoint_interval"]) -> int:
        """An experiment interval in timesteps, `auto` resolved as skrl does (1/100 and 1/10); 0 is never."""
        value = getattr(self.agent.experiment, name)
        if value == "auto":
            parts = 100 if name == "write_interval" else 10
            return max(self.trainer.timesteps // parts, self.agent.rollouts)
        return max(value, 0)

    def dump(self) -> dict[str, Any]:
        """Plain data in canonical spelling, defaults included; `Config` reads it back unchanged."""
        return self.model_dump(by_alias=True)
