"""Memory through which processes of a group hand each other arrays."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from runner import exchange
from runner.exchange import PIECE, Exchange, meet
from runner.group import Group

NETWORK = threading.Barrier(2)


def over_network(rank: int, sent: list[np.ndarray | None]) -> Callable[[np.ndarray], np.ndarray]:
    """`gather` of one of two threads, which stand for processes."""

    def gather(array: np.ndarray) -> np.ndarray:
        sent[rank] = array
        NETWORK.wait(30)
        every = np.stack([x for x in sent if x is not None])
        NETWORK.wait(30)
        return every

    return gather


def together(work: Callable[[int], object]) -> list[object]:
    """What two threads return."""
    results: list[object] = [None, None]

    def run(rank: int) -> None:
        results[rank] = work(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.fixture
def exchanges() -> Iterator[list[Exchange]]:
    sent: list[np.ndarray | None] = [None, None]
    found = together(lambda rank: meet(Group(rank, 2), over_network(rank, sent)))
    assert all(isinstance(one, Exchange) for one in found)
    both = [one for one in found if isinstance(one, Exchange)]
    yield both
    for one in both:
        one.close()


@pytest.mark.parametrize(
    "shape", [(), (0,), (3,), (2, 5, 7), (PIECE // 4 - 1,), (PIECE // 4,), (PIECE // 4 + 1, 3)], ids=str
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool])
def test_all_get_what_each_has_in_order(exchanges: list[Exchange], shape: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=shape) * 100).astype(dtype) for _ in range(2)]
    for every in together(lambda rank: exchanges[rank].gather(parts[rank])):
        assert isinstance(every, np.ndarray) and every.dtype == dtype
        np.testing.assert_array_equal(every, np.stack(parts))


def test_a_slow_process_reads_what_was_meant_for_it(exchanges: list[Exchange]) -> None:
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(2, 200, 1000)).astype(np.float32)

    def work(rank: int) -> list[np.ndarray]:
        found = []
        for number in range(200):
            if (number // 7) % 2 == rank:
                threading.Event().wait(0.0005)
            found.append(exchanges[rank].total(numbers[rank, number]))
        return found

    one, other = together(work)
    np.testing.assert_array_equal(one, numbers[0] + numbers[1])  # type: ignore[arg-type]
    np.testing.assert_array_equal(other, numbers[0] + numbers[1])  # type: ignore[arg-type]


def test_a_file_that_not_all_can_open_is_no_exchange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exchange, "_FOLDER", str(tmp_path))
    opened = exchange._opened

    def elsewhere(path: str, group: Group) -> Exchange | None:
        return opened(path if group.rank == 0 else path + "-of-another-machine", group)

    monkeypatch.setattr(exchange, "_opened", elsewhere)
    sent: list[np.ndarray | None] = [None, None]
    assert together(lambda rank: meet(Group(rank, 2), over_network(rank, sent))) == [None, None]
    assert list(tmp_path.iterdir()) == []


MATE = """
import sys, time
from runner.exchange import Exchange
import numpy as np
other = Exchange(1, 2, open(sys.argv[1], "r+b", buffering=0))
print("here", flush=True)
other.gather(np.arange(4))
if sys.argv[2] == "hangs":
    time.sleep(600)
"""


@pytest.mark.parametrize(("mate", "words"), [("ends", "has ended"), ("hangs", "has not come for")])
def test_a_mate_that_does_not_come_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mate: str, words: str
) -> None:
    monkeypatch.setattr(exchange, "LOOK_SECONDS", 0.05)
    path = tmp_path / "memory"
    path.write_bytes(bytes(Exchange.bytes_of(2)))
    own = Exchange(0, 2, path.open("r+b", buffering=0))
    with subprocess.Popen([sys.executable, "-c", MATE, str(path), mate], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "here\n"
        np.testing.assert_array_equal(own.gather(np.arange(4)), [np.arange(4)] * 2)
        monkeypatch.setattr(exchange, "PATIENCE_SECONDS", 1000.0 if mate == "ends" else 0.2)
        with pytest.raises(ConnectionError, match=f"process 1 of the 2 that train together {words}"):
            own.gather(np.arange(4))
        other.kill()
    own.close()
