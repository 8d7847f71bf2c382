"""The account of a normal life in an attempt's log: what trains on what, from where, and how it ended."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

from launcher.run.process import Job
from launcher.watch.tables import count
from runner.checkpoints import checkpoint
from runner.networks.blocks import Role, Step
from runner.networks.parameters import Network
from runner.training.tracking import Report


class Account:
    """The lines of an attempt's log at its beginning and end, and what they tell."""

    def __init__(self, job: Job, runner: Any, device: str, threads: int) -> None:
        """Nothing is told yet; `device` is what the backend computes on, `threads` step environments."""
        self._job, self._runner, self._device, self._threads = job, runner, device, threads
        self._config = runner.configs[0]  # what all members share is printed
        self._network = Network.of(self._config, runner.env.layout, runner.env.actions)
        self._envs = self._config.env.num_envs or 0
        self._start = checkpoint.timestep(job.checkpoints[0], "checkpoint") if job.checkpoints else 0
        self._began = time.monotonic()
        self._reached = [self._start * self._envs] * len(job.trials)
        self._diverged: list[str] = []

    def begin(self) -> None:
        """Print attempt, backend and device, environments, network, members, and where they go on."""
        config, members = self._config, len(self._job.trials)
        backend, rollouts = self._runner.backend, config.agent.rollouts
        version = importlib.metadata.version(backend)
        rounded = ", products in TF32" if config.agent.tf32 and self._device != "cpu" else ""
        arguments = "".join(f", {key}: {value}" for key, value in config.env.arguments.items())
        pool = f"{self._envs:,} environments x {count(members, 'member')}, {count(self._threads, 'thread')}"
        end = config.length if self._job.until is None else min(self._job.until, config.length)
        updates = (end - self._start) // rollouts
        length = f"{count(updates, 'update')} of {count(rollouts, 'timestep')}"
        lines = [
            f"{_now()} attempt {self._job.attempt} begins on {socket.gethostname()}, process {os.getpid()}",
            f"backend: {backend} {version} on {self._device}{rounded}; cores: {_cores()} of {os.cpu_count()}",
            f"pool: {config.env.id}{arguments}; {pool}",
            f"network: {describe(self._network)}",
            f"members: {', '.join(self._job.trials)}",
            f"training: from timestep {self._start:,} to {end:,}; {length}",
        ]
        print(*lines, sep="\n", flush=True)

    def follow(self, reports: Iterable[Report]) -> Iterator[Report]:
        """The same reports, of which it takes note."""
        for number, report in enumerate(reports):
            if number == 0:  # programs are compiled
                self._began = time.monotonic()
            for member, record in enumerate(report.records):
                if record is not None:
                    self._reached[member] = record.env_steps
            self._diverged += [self._job.trials[member] for member in report.diverged]
            yield report

    def end(self, outcome: str) -> str:
        """Print how it ended, how many env steps it did in how many seconds, and who diverged; returns the outcome."""
        steps = sum(self._reached) - self._start * self._envs * len(self._job.trials)
        seconds = time.monotonic() - self._began
        speed = f"{steps:,} env steps in {seconds:,.1f} s, {steps / max(seconds, 1e-9):,.0f} steps/s"
        diverged = f"; diverged: {', '.join(self._diverged)}" if self._diverged else ""
        print(f"{_now()} attempt {self._job.attempt} ends: {outcome}; {speed}{diverged}", flush=True)
        return outcome


def describe(network: Network) -> str:
    """Layers and size: `policy net (64 tanh, 64 tanh) → 2; value net (64 tanh) → 1; 9,155 parameters a member`."""
    shapes = {entry.name: entry.shape for entry in network.entries}

    def layer(step: Step) -> str:
        outputs, _, *kernel = shapes.get(f"{step.name}.weight", ("flatten", 0))
        size = f"{outputs} of {'x'.join(map(str, kernel))}" if kernel else str(outputs)
        return size if step.activation == "identity" else f"{size} {step.activation}"

    def head(role: Role) -> str:
        return f" → {shapes[role.head + '.weight'][0]}" if role.head else ""

    def blocks(role: Role) -> str:
        return ", ".join(f"{b.name} ({', '.join(map(layer, b.steps))})" for b in role.blocks) or "none"

    value = blocks(network.value) if network.separate else "the same"
    return (
        f"policy {blocks(network.policy)}{head(network.policy)}; value {value}{head(network.value)}; "
        f"{network.size:,} parameters a member"
    )


def failure(attempt: int) -> str:
    """The end of an attempt that raised an error, which is printed behind it."""
    return f"{_now()} attempt {attempt} ends: failed"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _cores() -> str:
    """Numbers of the cores that this process is pinned to."""
    return ", ".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else "any"
