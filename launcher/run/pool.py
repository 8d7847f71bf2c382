"""Worker processes without work: started ahead of it or kept for more, since importing a framework takes seconds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from launcher.cluster.connect import START_SECONDS, is_own, not_started
from launcher.plan.experiment import Placement
from launcher.run.failures import end_process, is_lost
from launcher.run.worker import Worker
from runner.envs.named import imports


class Process(NamedTuple):
    """A worker, and the answers that are waited for: where it is, and that it has imported everything.

    Of a group it is the first, which reports; `mates` are the others, `room` is Ray's placement group.
    """

    worker: Any
    where: Any
    ready: Any
    mates: tuple[Process, ...] = ()
    room: Any = None

    def end_mates(self) -> None:
        """End its mates, also those that do not answer."""
        import ray

        for mate in self.mates:
            with contextlib.suppress(ray.exceptions.RayError):
                if ray.wait([mate.where], timeout=0)[0]:
                    end_process(ray.get(mate.where), mate.worker)

    def end(self) -> None:
        """End it, and its mates."""
        import ray

        for one in (self, *self.mates):
            ray.kill(one.worker)
        if self.room is not None:
            ray.util.remove_placement_group(self.room)


class Processes:
    """Processes without a pack. Each holds its cores or part of a GPU, so there are never more than may have work."""

    def __init__(self, placement: Placement, at_a_time: int) -> None:
        """Decide what a process reserves; there are so many at a time."""
        import ray

        self._placement = placement
        at_a_time *= placement.devices
        # Workers that share a GPU get exactly 1/k of it, k so small that all GPUs have work: Ray fills one by one.
        self.sharing = math.ceil(at_a_time / placement.gpus) if placement.gpus else 0
        self._share = 1 / self.sharing if self.sharing else 0
        self._actor = ray.remote(max_restarts=0, max_task_retries=0, num_gpus=self._share)(Worker)
        self._idle: list[tuple[str, Process]] = []
        self._lost: set[str] = set()

    def __len__(self) -> int:
        return len(self._idle)

    def avoid(self, machine: str) -> None:
        """Start no process on Ray's node of this ID as long as it is gone: for 15 s Ray itself takes it for alive."""
        self._lost.add(machine)

    def prepare(self, backend: str) -> None:
        """Start a process, or a group of them, and let it import what it needs."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        on_gpu = self.sharing if self._placement.on_gpus else 0
        self._lost = {machine for machine in self._lost if is_lost(machine)}
        elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(self._lost))})"} if self._lost else None
        cores, size = self._cores(), self._placement.devices
        given = backend, max(1, cores), self._placement.threads, on_gpu, imports.allowed()
        if size == 1:
            worker = self._actor.options(label_selector=elsewhere, num_cpus=cores).remote(*given)
            self._idle.append((backend, Process(worker, worker.where.remote(), worker.ready.remote())))
            return
        room = self._room(cores, elsewhere)
        places = [PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=rank) for rank in range(size)]
        workers = [self._actor.options(scheduling_strategy=at, num_cpus=cores).remote(*given) for at in places]
        address = workers[0].meet.remote()
        first, *mates = (
            Process(worker, worker.where.remote(), worker.ready.remote(rank, size, address))
            for rank, worker in enumerate(workers)
        )
        self._idle.append((backend, first._replace(mates=tuple(mates), room=room)))

    def _room(self, cores: int, elsewhere: dict[str, str] | None) -> Any:
        """Room for a group of processes, on one machine where possible."""
        import ray

        bundle = {name: number for name, number in (("CPU", cores), ("GPU", self._share)) if number}
        size = self._placement.devices
        selector = None if elsewhere is None else [elsewhere] * size
        return ray.util.placement_group([bundle] * size, "PACK", bundle_label_selector=selector)

    def _cores(self) -> int:
        """Cores of a process: as placed, or all of the largest machine where those that had so many are gone."""
        import ray

        if self._placement.gpus or self._placement.cpus <= 1 or self._placement.devices > 1:
            return self._placement.cpus
        there = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._lost]
        largest = max((int(node["Resources"].get("CPU", 0)) for node in there), default=0)
        return min(self._placement.cpus, largest or 1)

    def take(self, backend: str, room: int) -> Process:
        """A process for a pack, new if there is none; `room` is how many there may be beside those that have a pack.

        One of the other backend must not keep the core that this one waits for.
        """
        found = next((item for item in self._idle if item[0] == backend), None)
        if found is None:
            if self._idle and len(self._idle) >= room:
                self._idle.pop(0)[1].end()
            self.prepare(backend)
            found = self._idle[-1]
        self._idle.remove(found)
        return found[1]

    def give(self, backend: str, process: Process) -> None:
        """Take back a process that has done its work, for more of it."""
        self._idle.append((backend, process))

    def end(self) -> None:
        """End these processes."""
        while self._idle:
            self._idle.pop()[1].end()


def first_ended(running: Mapping[Any, Process]) -> Any:
    """Wait for the first of futures, each of work that its process was given.

    It is an error if one has not begun in a long time, on a Ray of our own, where all have room.
    """
    import ray

    while not (ended := ray.wait(list(running), timeout=START_SECONDS)[0]):
        if is_own() and not all(ray.wait([process.where], timeout=0)[0] for process in running.values()):
            raise TimeoutError(not_started("a worker process"))
    return ended[0]
