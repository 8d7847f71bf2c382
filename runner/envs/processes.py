"""Environments of Python in a few processes beside this one, each of which steps many of them.

At a step every process gets one byte and answers with one; actions and what comes of them are in memory that all share,
which has no name and is gone with the last of them. A process is a fresh interpreter (nothing is forked from threads of
torch or XLA, and no `__main__` runs twice), out of reach of the terminal's signals. It ends with whoever started it,
however that ends, and whatever the environment does at that moment; so do the processes that its environments start.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import itertools
import mmap
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import cloudpickle
import numpy as np

from runner.envs.base import Step, VectorEnv
from runner.envs.loop import HUNG_SECONDS, IDLE, Loop, Maker, Table
from runner.envs.spaces import ActionSpace, Layout
from runner.errors import FailedEnvironmentError, UserError

LOOK_SECONDS = 1.0
"""Between two looks at a process that has not answered."""
END_SECONDS = 5.0
"""For environments to close, before their process is ended."""
MAKE, RESET, STEP, END, DONE, FAILED = b"m", b"r", b"s", b"e", b"d", b"f"
PROGRAM = (
    "import sys; sys.path[:] = sys.argv[2:]; from runner.envs.processes import serve; "
    "serve(*map(int, sys.argv[1].split()))"
)
DUMP = getattr(signal, "SIGUSR1", None)
"""Has a process note where it is."""


class Setup(NamedTuple):
    """Everything that a process is told at its beginning."""

    maker: Maker
    seeds: tuple[int, ...]
    layout: Layout
    actions: ActionSpace
    processes: int

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The first environment of each process, and the one after its last."""
        edges = [len(self.seeds) * n // self.processes for n in range(self.processes + 1)]
        return list(itertools.pairwise(edges))


class Shared(NamedTuple):
    """The arrays that all processes see, `[N, …]`; `doing` is `[processes, 2]`."""

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    actions: np.ndarray
    chosen: np.ndarray
    doing: np.ndarray

    @classmethod
    def of(cls, file: int, setup: Setup) -> Shared:
        """The arrays in the memory of a file, which grows to hold them."""
        rows = len(setup.seeds)
        fields: list[tuple[tuple[int, ...], Any]] = [
            ((rows, setup.layout.stop), setup.layout.dtype),
            ((rows,), np.float32),
            ((rows,), bool),
            ((rows,), bool),
            ((rows, *setup.actions.shape), setup.actions.dtype),
            ((rows,), bool),
            ((setup.processes, 2), np.int64),
        ]
        # Each begins on a line of the processor's cache.
        sizes = [-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for shape, dtype in fields]
        offsets = [0, *itertools.accumulate(sizes)]
        if os.fstat(file).st_size < offsets[-1]:
            os.ftruncate(file, offsets[-1])
        memory = mmap.mmap(file, offsets[-1])
        return cls(*(np.ndarray(*field, memory, offset) for field, offset in zip(fields, offsets, strict=False)))

    def part(self, process: int, first: int, last: int) -> Table:
        """The rows that one process writes."""
        observations, rewards, terminated, truncated = (column[first:last] for column in self[:4])
        return Table(observations, rewards, terminated, truncated, self.doing[process])


class Processes(VectorEnv):
    """Environments of one kind, stepped by processes of their own."""

    def __init__(self, like: VectorEnv, maker: Maker, seeds: Sequence[int], processes: int) -> None:
        """Start the processes, and wait until each has made its first environment.

        Args:
            like: has the spaces.
            maker: makes an environment at every call; it goes to another process.
            seeds: one per environment.
            processes: how many.

        Raises:
            UserError: the maker cannot be sent to another process.
        """
        super().__init__(len(seeds), like.observation_space, like.action_space)
        seeds = tuple(int(seed) for seed in seeds)
        self._setup = Setup(maker, seeds, self.layout, self.actions, min(processes, len(seeds)))
        with _memory() as memory, _memory() as written:
            written.write(_pickled(self._setup))
            written.flush()
            self._shared = Shared.of(memory.fileno(), self._setup)
            self._shared.doing[:] = IDLE, 0
            self._children: list[Child] = []
            self._end = weakref.finalize(self, end, self._children)
            for process in range(self._setup.processes):
                self._children.append(Child(process, self._setup, self._shared.doing[process], memory, written))
        self._do(MAKE)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere."""
        self._do(RESET)
        return self._shared.observations.copy(), {}

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        return self.step_some(actions, np.arange(self.num_envs))

    def step_some(self, actions: Any, indices: np.ndarray) -> Step:
        """Step only these environments; see the base class."""
        shared = self._shared
        shared.actions[:] = self.actions.checked(actions, self.num_envs)
        shared.chosen[:] = False
        shared.chosen[indices] = True
        self._do(STEP)
        observations, rewards, terminated, truncated = (column[indices] for column in shared[:4])
        return observations, rewards, terminated, truncated, {}

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _do(self, command: bytes) -> None:
        if not self._end.alive:
            raise UserError("these environments are closed; allowed: new ones, of `seeded`")
        try:
            for child in self._children:
                child.send(command)
            for child in self._children:
                child.wait()
        except BaseException:
            self.close()  # nobody will wait for what the others answer
            raise


class Child:
    """A process, seen from the one that started it."""

    def __init__(self, number: int, setup: Setup, doing: np.ndarray, memory: IO[bytes], written: IO[bytes]) -> None:
        self._first, self._seeds, self._doing = setup.bounds[number][0], setup.seeds, doing
        self._notes = tempfile.TemporaryFile()  # noqa: SIM115
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        life, self._life = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        files = (commands, answers, life, self._notes.fileno(), written.fileno(), memory.fileno())
        words = " ".join(map(str, (number, *files)))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, words, *sys.path],
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            for file in (commands, answers, life):
                os.close(file)

    def send(self, command: bytes) -> None:
        """Ask for something; whether it is there to hear it, `wait` will tell."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._commands, command)

    def wait(self) -> None:
        """Until it has done what it was asked for.

        Raises:
            FailedEnvironmentError: of the environment that kept it from that.
        """
        seen, since = list[int](), 0.0
        while not self._poll.poll(1000 * LOOK_SECONDS):
            now = time.monotonic()
            if (doing := self._doing.tolist()) != seen:
                seen, since = doing, now
            elif now - since > HUNG_SECONDS:
                raise self._hung()
        answer = os.read(self._answers, 1)
        if answer == FAILED:
            with open(self._answers, "rb", closefd=False) as file:
                raise pickle.load(file)
        if answer != DONE:
            raise self._died()

    def end(self, deadline: float) -> None:
        """Have it close its environments and end; end it at the deadline, and what its environments have started."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        # Of a group of dead processes macOS says that it is not permitted.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in (self._commands, self._answers, self._life):
            os.close(file)
        self._notes.close()

    def _hung(self) -> FailedEnvironmentError:
        if DUMP is not None:
            self._process.send_signal(DUMP)
            time.sleep(0.5)  # to be written
        return self._failed(f"has not answered for {HUNG_SECONDS:.0f} s")

    def _died(self) -> FailedEnvironmentError:
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it has closed its files
            return self._failed("no longer answers")
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return self._failed(f"ended its process: {how}")

    def _failed(self, what: str) -> FailedEnvironmentError:
        row = int(self._doing[0])
        number = self._first + max(row, 0)
        who = f"the environment with seed {self._seeds[number]}"
        if row == IDLE:
            who = f"the process of {who} and those after it"
        self._notes.seek(0)
        notes = self._notes.read().decode(errors="replace").strip()
        error = FailedEnvironmentError(f"{who} {what}", number, len(self._seeds))
        if notes:
            error.add_note(notes)
        return error


def end(children: Sequence[Child]) -> None:
    """End processes, all at once."""
    for child in children:
        child.send(END)
    deadline = time.monotonic() + END_SECONDS
    for child in children:
        child.end(deadline)


def _memory() -> IO[bytes]:
    """A file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("sunflower"), "w+b")
    return tempfile.TemporaryFile()


def _pickled(setup: Setup) -> bytes:
    try:
        return cloudpickle.dumps(setup)
    except Exception as error:
        raise UserError(
            f"what makes the environments cannot be sent to another process: {type(error).__name__}: {error}; allowed: "
            "a class or function that holds no open files, locks or the like, or threads=1"
        ) from None


def serve(number: int, commands: int, answers: int, life: int, notes: int, written: int, memory: int) -> None:
    """The life of a process: do what it is told to, by the byte, until it is told to end or nobody is there to tell.

    Args:
        number: its place among the processes.
        commands: file to read from.
        answers: file to write to.
        life: file whose other end is open as long as whoever started it lives.
        notes: file for tracebacks.
        written: file with the `Setup`.
        memory: file of the shared memory.
    """
    _end_with(life)
    faulthandler.enable(notes)
    if DUMP is not None:
        faulthandler.register(DUMP, notes)
    loops: list[Loop] = []
    shared: list[Shared] = []
    first, last = 0, 0

    def make() -> None:
        nonlocal first, last
        setup: Setup = pickle.loads(os.pread(written, os.fstat(written).st_size, 0))
        first, last = setup.bounds[number]
        shared.append(Shared.of(memory, setup))
        table = shared[0].part(number, first, last)
        loops.append(Loop(setup.maker, setup.seeds[first:last], setup.layout, table, first, len(setup.seeds)))

    def step() -> None:
        actions, chosen = (column[first:last] for column in (shared[0].actions, shared[0].chosen))
        loops[0].step(actions.copy(), np.flatnonzero(chosen).tolist())

    acts: dict[bytes, Callable[[], None]] = {MAKE: make, STEP: step, RESET: lambda: loops[0].reset()}
    while (command := os.read(commands, 1)) in acts:
        os.write(answers, _answer(acts[command]))
    for loop in loops:
        loop.close()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # an environment's threads do not keep it


def _answer(act: Callable[[], None]) -> bytes:
    try:
        act()
    except (UserError, FailedEnvironmentError) as error:
        if error.__cause__ is not None:
            import traceback

            error.add_note("".join(traceback.format_exception(error.__cause__)).strip())
        return FAILED + pickle.dumps(error)
    except BaseException as error:
        words = f"{type(error).__name__}: {error}"
        return FAILED + pickle.dumps(UserError(f"a process for environments cannot go on: {words}"))
    return DONE


def _end_with(life: int) -> None:
    """Have the system end this process's group, whatever it does, once the other end of the pipe is closed.

    It leads the group, which has the processes that environments start. Elsewhere than on Linux it ends when it next
    asks for a command.
    """
    if sys.platform == "linux":
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
