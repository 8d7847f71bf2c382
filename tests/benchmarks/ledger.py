"""What a launch of many trials costs, and how many workers one aggregator answers.

    python -m tests.benchmarks.ledger size --trials 10000 --records 1000
    python -m tests.benchmarks.ledger load --seconds 8

`size` plans and creates a launch of that many trials, a tenth of them interrupted at a checkpoint and the others
finished, fills its ledger through the product's own calls (20 values a record, every push on disk when it returns),
and measures what people and the launcher then do with it. 10,000 x 1,000 records need 4 GB where temporary files are.

`load` starts a real aggregator on a local Ray and lets four processes play 50 to 400 workers, which push as training
does: once a second, two records per trial. Each line has more workers, or more trials per worker, than the one before;
the last ones push again as soon as they are answered. What is counted was on disk when it was answered.

On a disk shared with others both depend on how long it takes to flush a file, so that is measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

# Read when ray is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

from rich.console import Console

from launcher.export.tensorboard import TensorBoardExport
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, Published, TrialRow
from launcher.plan import directory as folder
from launcher.plan import resume as continuing
from launcher.plan.experiment import Placement, Trial, form_packs
from launcher.plan.revision import revision as revision_of
from launcher.watch import status
from launcher.watch.standing import read
from runner.training import tracking
from runner.training.tracking import Record
from tests.launcher.builders import read_experiment

T = TypeVar("T")

CONFIG = Path(__file__).parents[2] / "configs" / "classic" / "cartpole.yaml"
TAGS = [value for name, value in vars(tracking).items() if name.isupper() and isinstance(value, str)]
"""What training records: every metric there is."""
RATES = 10
"""Learning rates of the launch; the rest of its trials are seeds."""
PUSHED = 25
"""Records of each trial of a pack in one push."""
EXPORTED = 100
"""Part of the launch that a first export is measured with: one in so many trials."""
PROCESSES = 4
"""That play workers."""
LOADS = [
    # workers, trials each, seconds between pushes
    (50, 8, 1.0),
    (100, 8, 1.0),
    (200, 8, 1.0),
    (400, 8, 1.0),
    (200, 16, 1.0),
    (200, 32, 1.0),
    (200, 8, 0.0),
    (200, 32, 0.0),
]


def machine() -> str:
    """Where this runs, and how busy it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{processor} x {os.cpu_count()}, {platform.platform()}, load {os.getloadavg()[0]:.1f}"


def flush_milliseconds(directory: Path, times: int = 100) -> float:
    """Median time that it takes to bring a page to disk."""
    taken = []
    with (directory / "page").open("wb") as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


def records(first: int, count: int) -> list[Record]:
    """As training makes them: other numbers each time, under the same names."""
    return [
        Record(i, 128 * (i + 1), 4096 * (i + 1), 0.5 * (i + 1), {tag: i / 7 + k for k, tag in enumerate(TAGS)})
        for i in range(first, first + count)
    ]


def timed(what: str, call: Callable[[], T]) -> T:
    """Call, and print how long it took."""
    began = time.perf_counter()
    result = call()
    show(what, f"{time.perf_counter() - began:.2f} s")
    return result


def show(what: str, found: str) -> None:
    """One line of the table."""
    print(f"{what:58}{found:>22}", flush=True)


# Size


def plan(trials: int) -> list[Trial]:
    """So many trials: seeds of a few learning rates."""
    rates = ",".join(f"{1e-4 * (k + 1):g}" for k in range(RATES))
    return list(read_experiment([CONFIG], [f"agent.learning_rate={rates}"], {}, str(trials // RATES)).trials)


def fill(directory: Path, packs: Sequence[Sequence[Trial]], count: int) -> None:
    """Train all trials for so many records: the last tenth of the packs is interrupted, the others finish."""
    seconds = 0.0
    with Ledger(directory) as ledger:
        for number, pack in enumerate(packs):
            names = [trial.id for trial in pack]
            attempt = ledger.open(names, f"token {number}").number
            ledger.describe_attempt(attempt, f"logs/attempt-{attempt}.log", "host", 1)
            for first in range(0, count, PUSHED):
                some = records(first, min(PUSHED, count - first))
                batches = {name: Batch(first, some) for name in names}
                began = time.perf_counter()
                ledger.push(attempt, batches, "training")
                seconds += time.perf_counter() - began
            if number < 0.9 * len(packs):
                ledger.publish(attempt, {name: Published(3072, b"", "agent", count, "finished") for name in names})
                ledger.close(attempt, "finished")
            else:
                saved = Published(1024, bytes(40_000), "agent", count, "interrupted")
                ledger.publish(attempt, dict.fromkeys(names, saved))
                ledger.close(attempt, "stopped")
    total = sum(map(len, packs)) * count
    show("  rate of pushes, everything on disk", f"{total / seconds:,.0f} records/s")
    show(f"  at {len(TAGS)} values a record", f"{total * len(TAGS) / seconds:,.0f} scalars/s")


def command(*arguments: str) -> None:
    """A `launch` command, as a process of its own."""
    subprocess.run([sys.executable, "-m", "launcher.cli.main", *arguments], check=True, stdout=subprocess.DEVNULL)


def export(trials: int, count: int) -> None:
    """A first TensorBoard export of a launch of its own."""
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "launch"
        some = plan(trials)
        folder.create(directory, some)
        with Ledger(directory) as ledger:
            names = [trial.id for trial in some]
            attempt = ledger.open(names, "token").number
            for first in range(0, count, PUSHED):
                ledger.push(attempt, {name: Batch(first, records(first, min(PUSHED, count - first))) for name in names})
        exporter = TensorBoardExport(directory)
        began = time.perf_counter()
        exporter.poll()
        seconds = time.perf_counter() - began
        exporter.close()
        show(f"first TensorBoard export of {trials:,} trials", f"{seconds:.2f} s")
        show("  and its averages", f"{trials * count / seconds:,.0f} records/s")


def poll_without_news(directory: Path, trials: Sequence[Trial], count: int) -> None:
    """What the launcher's loop does twice a second, when all is exported and nothing new has come."""
    with Ledger(directory, writer=False) as ledger:
        revision = ledger.changes(len(trials) * count - 1, 1)[0].revision
    cursor = {"revision": revision, "averaged": dict.fromkeys({trial.name for trial in trials}, count)}
    (directory / "tensorboard").mkdir()
    (directory / "tensorboard" / "cursor.json").write_text(json.dumps(cursor))
    exporter = TensorBoardExport(directory)
    exporter.poll()
    timed("the exporter's look, nothing new (twice a second)", exporter.poll)
    exporter.close()


def size(parent: Path, count: int, each: int) -> None:
    """Make a launch of `count` trials with `each` records and measure everything that reads all of it."""
    show(f"flushing a page to disk, in {parent.parent}", f"{flush_milliseconds(parent):.2f} ms")
    directory = parent / "launch"
    trials = timed(f"planning {count:,} trials: read_experiment", lambda: plan(count))
    packs = timed("  forming packs", lambda: form_packs([(trial, 0) for trial in trials], 2))
    timed("creating the directory: directory.create", lambda: folder.create(directory, trials))
    timed(f"filling the ledger, {each:,} records a trial", lambda: fill(directory, packs, each))
    bytes_ = (directory / "ledger.sqlite").stat().st_size
    show("ledger.sqlite", f"{bytes_ / 1e9:.3f} GB")
    show("  per record", f"{bytes_ / count / each:.0f} bytes")
    folder.add_revision(directory, revision_of("launch …", Placement(2, 0, 1), packs))
    with Ledger(directory, writer=False) as ledger:
        ledger.progress()
        timed("Ledger.progress, which the live table shows", ledger.progress)
    poll_without_news(directory, trials, each)
    timed("launch status, whole process", lambda: command("status", str(directory)))
    standing = timed("  inside: read", lambda: read(directory))
    with Path(os.devnull).open("w") as nowhere:
        console = Console(file=nowhere, width=200)
        timed("  inside: status.show", lambda: status.show(console, standing))
        timed("    of it show_statistics", lambda: status._show_statistics(console, standing.rows, 20))
    timed("launch status --json, whole process", lambda: command("status", str(directory), "--json"))
    timed("launch resume --dry-run, whole process", lambda: command("resume", str(directory), "--dry-run"))
    more = timed("  inside: continuing.read", lambda: continuing.read(directory, None, [], False))
    timed("  inside: forming packs", lambda: form_packs(more.todo, 2))
    export(max(count // EXPORTED, RATES), each)


# Load


async def play(
    aggregator: Any, attempts: dict[int, list[str]], every: float, until: float
) -> tuple[list[float], int, int]:
    """Workers that push: seconds until each answer, records stored, and beats that came late or went wrong."""
    answers: list[float] = []
    stored = wrong = 0

    async def worker(attempt: int, names: list[str], first_beat: float) -> None:
        nonlocal stored, wrong
        count, due = 0, first_beat
        while time.time() < until:
            await asyncio.sleep(max(0.0, due - time.time()))
            # What has come since the last beat, two a second; else as much as a beat has.
            some = records(count, 2)
            began = time.perf_counter()
            reply = await aggregator.push.remote(attempt, {name: Batch(count, some) for name in names}, "training")
            answers.append(time.perf_counter() - began)
            wrong += reply.high_water != dict.fromkeys(names, count + 2) or bool(every and time.time() > due + every)
            count, due = count + 2, max(due + every, time.time() if not every else 0.0)
            stored += 2 * len(names)

    start = time.time()
    spread = enumerate(attempts.items())
    await asyncio.gather(*(worker(*item, start + every * place / len(attempts)) for place, item in spread))
    return answers, stored, wrong


def load(ray: Any, workers: int, each: int, every: float, seconds: float) -> str:
    """One line: an aggregator, a ledger and workers of their own."""
    from launcher.ledger.aggregator import start_aggregator

    class Players:
        async def play(self, *arguments: Any) -> tuple[list[float], int, int]:
            return await play(*arguments)

        def ready(self) -> None:
            """It has imported everything."""

    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent)
        names = [[f"trial_{worker}_{k}" for k in range(each)] for worker in range(workers)]
        with Ledger(directory) as ledger:
            seeds = enumerate(name for group in names for name in group)
            ledger.add_trials(TrialRow(name, "config", seed, 32, 100_000) for seed, name in seeds)
            attempts = {ledger.open(group, str(worker)).number: group for worker, group in enumerate(names)}
        aggregator = start_aggregator(directory)
        players = [ray.remote(num_cpus=0)(Players).remote() for _ in range(PROCESSES)]
        ray.get([player.ready.remote() for player in players])
        flush = flush_milliseconds(directory, 50)
        shares = [dict(list(attempts.items())[number::PROCESSES]) for number in range(PROCESSES)]
        began = time.time()
        futures = [
            player.play.remote(aggregator, share, every, began + seconds)
            for player, share in zip(players, shares, strict=True)
        ]
        found = ray.get(futures)
        taken = time.time() - began
        for actor in (*players, aggregator):
            ray.kill(actor)
    answers = sorted(1e3 * answer for some, _, _ in found for answer in some)
    stored, wrong = (sum(numbers) for numbers in zip(*(some[1:] for some in found), strict=True))
    asked = f"{workers * each * 2 * len(TAGS) / every:,.0f}" if every else "all it takes"
    return (
        f"{workers:7}{each:8}{asked:>15}{stored * len(TAGS) / taken:12,.0f}{len(answers) / taken:10,.0f}"
        f"{statistics.median(answers):12.1f}{answers[int(0.99 * len(answers))]:12.1f}{wrong:8}{flush:12.2f}"
    )


def loads(seconds: float) -> None:
    """All lines."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    print(
        f"{'workers':>7}{'trials':>8}{'scalars/s':>15}{'stored/s':>12}{'pushes/s':>10}{'median ms':>12}{'99% ms':>12}"
        f"{'late':>8}{'flush ms':>12}",
        flush=True,
    )
    for workers, each, every in LOADS:
        print(load(ray, workers, each, every, seconds), flush=True)
    ray.shutdown()


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("size", "load"))
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each line of `load`")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    if arguments.what == "size":
        with tempfile.TemporaryDirectory() as parent:
            size(Path(parent), arguments.trials, arguments.records)
    else:
        loads(arguments.seconds)


if __name__ == "__main__":
    main()
