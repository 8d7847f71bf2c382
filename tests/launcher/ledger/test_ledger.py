"""The ledger: every record once, whatever is sent twice, late, out of order or by the wrong attempt."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import GAP, LOST, STORED, Batch, Member, TrialRow
from runner.errors import UserError
from runner.training.tracking import Record
from tests.launcher.builders import A, B, agent, batch, give_up, records, state, stored

C = TrialRow("c-1", "c", 1, 8, 1000)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        ledger.add_trials([A, B])
        yield ledger


# Trials


def test_trials_added_twice_are_there_once(ledger: Ledger) -> None:
    ledger.add_trials([A, B])
    ledger.add_trials([TrialRow("a-2", "a", 2, 4, 1000)])
    assert [row.id for row in ledger.trials()] == ["a-1", "a-2", "b-1"]
    assert ledger.trials()[0] == A


@pytest.mark.parametrize(
    "row",
    [
        dataclasses.replace(A, timesteps=2000),
        dataclasses.replace(A, num_envs=5),
        dataclasses.replace(A, seed=9),
        dataclasses.replace(A, id="other"),  # two trials would share one TensorBoard folder
    ],
)
def test_trial_that_conflicts_is_refused_and_nothing_is_added(ledger: Ledger, row: TrialRow) -> None:
    with pytest.raises(UserError, match=r"a-1.* differs from"):
        ledger.add_trials([TrialRow("c-1", "c", 1, 4, 1000), row])
    assert ledger.trials() == [A, B]


def test_adding_again_keeps_what_became_of_a_trial(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.add_trials([A])
    assert ledger.trials()[0] == dataclasses.replace(A, state="running", attempt=attempt)


# Exactly once


def test_duplicates_and_overlaps_are_stored_once(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    assert ledger.push(attempt, {"a-1": batch(0, 3)}) == {"a-1": 3}
    assert ledger.push(attempt, {"a-1": batch(0, 3, shift=0.5)}) == {"a-1": 3}
    assert ledger.push(attempt, {"a-1": batch(1, 5)}) == {"a-1": 5}
    assert ledger.push(attempt, {"a-1": batch(0, 2)}) == {"a-1": 5}
    assert stored(ledger) == records(0, 5)


def test_out_of_order_pushes_are_resent_from_the_gap(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    # a has a gap and stores nothing, b goes on.
    assert ledger.push(attempt, {"a-1": batch(2, 4), "b-1": batch(0, 2)}) == {"a-1": 0, "b-1": 2}
    assert stored(ledger) == []
    assert ledger.push(attempt, {"a-1": batch(0, 2)}) == {"a-1": 2}
    assert ledger.push(attempt, {"a-1": batch(2, 4)}) == {"a-1": 4}
    assert stored(ledger) == records(0, 4)


def test_beat_tells_the_high_water(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 3)})
    assert ledger.push(attempt, {"a-1": Batch(3), "b-1": Batch(0)}) == {"a-1": 3, "b-1": 0}
    assert ledger.push(attempt, {}) == {}


def test_records_that_skip_an_index_are_a_bug_and_nothing_is_stored(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    with pytest.raises(ValueError, match="record 2 was sent in the place of 1"):
        ledger.push(attempt, {"b-1": batch(0, 2), "a-1": Batch(0, [*records(0, 1), *records(2, 3)])})
    assert stored(ledger) == stored(ledger, "b-1") == []


def test_every_double_survives(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    values = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "-0": -0.0, "tiny": 5e-324, "third": 1 / 3}
    ledger.push(attempt, {"a-1": Batch(0, [Record(0, 1, 4, 0.0, values), Record(1, 2, 8, 0.0, {})])})
    first, second = stored(ledger)
    assert list(first.values) == list(values)
    assert [v.hex() for v in first.values.values()] == [v.hex() for v in values.values()]
    assert second.values == {}


def test_note_is_kept_with_the_attempt(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {}, note="Segmentation fault")
    ledger.push(attempt, {})
    assert ledger.attempts()[0].note == "Segmentation fault"


# Attempts


def test_second_attempt_takes_over_and_the_first_has_lost(ledger: Ledger) -> None:
    first = ledger.open(["a-1", "b-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 2), "b-1": batch(0, 2)})
    second = ledger.open(["a-1"], "t2")
    assert second.number != first and second.resume == {"a-1": None}
    assert ledger.push(first, {"a-1": batch(0, 2), "b-1": batch(2, 3)}) == {"a-1": LOST, "b-1": 3}
    assert ledger.publish(first, {"a-1": agent(10, 0), "b-1": agent(30, 3)}) == {"a-1": LOST, "b-1": STORED}
    assert stored(ledger) == [] and ledger.checkpoints("a-1") == []
    assert not (ledger.directory / "trials/a-1").exists()


def test_closed_attempt_and_unknown_trial_have_lost(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    assert ledger.push(attempt, {"none": Batch(0), "b-1": Batch(0)}) == {"none": LOST, "b-1": LOST}
    ledger.close(attempt, "killed")
    assert ledger.push(attempt, {"a-1": batch(0, 1)}) == {"a-1": LOST}
    assert ledger.publish(attempt, {"a-1": agent(0, 0)}) == {"a-1": LOST}
    ledger.close(attempt, "again")
    assert [(row.outcome, row.closed_at is not None) for row in ledger.attempts()] == [("killed", True)]


def test_rewind_forgets_what_the_checkpoint_does_not_cover(ledger: Ledger) -> None:
    first = ledger.open(["a-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 5)})
    ledger.publish(first, {"a-1": agent(30, 3)})
    second = ledger.open(["a-1"], "t2")
    assert second.resume["a-1"] == ledger.checkpoints("a-1")[0]
    assert stored(ledger) == records(0, 3)
    assert ledger.push(second.number, {"a-1": batch(3, 6, shift=0.5)}) == {"a-1": 6}
    assert stored(ledger) == records(0, 3) + records(3, 6, shift=0.5)


def test_open_repeated_with_its_token_is_the_same_attempt(ledger: Ledger) -> None:
    first = ledger.open(["a-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 3)})
    ledger.publish(first, {"a-1": agent(20, 2)})
    opened = ledger.open(["a-1", "b-1"], "t2")
    assert ledger.open(["a-1", "b-1"], "t2") == opened
    assert len(ledger.attempts()) == 2


@pytest.mark.parametrize("final", ["finished", "diverged"])
def test_final_states_stay(ledger: Ledger, final: str) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    assert ledger.publish(attempt, {"a-1": agent(0, 0, state=final)}) == {"a-1": STORED}
    ledger.publish(attempt, {"a-1": agent(0, 0)})
    assert ledger.close(attempt, "crash", "too late") == ["b-1"]
    ledger.fail(["a-1"], "too late")
    assert ledger.trials()[0] == dataclasses.replace(A, state=final, attempt=attempt)
    with pytest.raises(UserError, match=f"'a-1' cannot be trained: it is {final}"):
        ledger.open(["b-1", "a-1"], "t2")
    assert ledger.trials()[1].attempt == attempt and len(ledger.attempts()) == 1


def test_unknown_trial_cannot_be_opened(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="'nobody' cannot be trained: it is unknown"):
        ledger.open(["nobody"], "t")


def test_failed_trial_says_why_until_it_runs_again(ledger: Ledger) -> None:
    give_up(ledger, ledger.open(["a-1"], "t1").number, ["a-1"], "out of memory")
    assert [(row.state, row.error) for row in ledger.trials()] == [
        ("failed", "out of memory"),
        ("pending", None),
    ]
    ledger.open(["a-1"], "t2")
    assert [(row.state, row.error) for row in ledger.trials()] == [("running", None), ("pending", None)]
    ledger.fail(["a-1"], "while another attempt is at it")
    assert [(row.state, row.error) for row in ledger.trials()] == [("running", None), ("pending", None)]


def test_trials_that_never_began_can_be_given_up(ledger: Ledger) -> None:
    ledger.fail(["b-1"], "no such machine")
    assert [(row.state, row.error) for row in ledger.trials()] == [("pending", None), ("failed", "no such machine")]


def test_close_answers_the_unfinished_trials_in_pack_order_and_says_why(ledger: Ledger) -> None:
    ledger.add_trials([C])
    attempt = ledger.open(["c-1", "b-1", "a-1"], "t").number
    ledger.publish(attempt, {"b-1": agent(0, 0, state="finished")})
    for _ in range(2):  # asked again, it answers the same
        assert ledger.close(attempt, "crash", "segmentation fault") == ["c-1", "a-1"]
    assert [(row.state, row.error) for row in ledger.trials()] == [
        ("pending", "segmentation fault"),
        ("finished", None),
        ("pending", "segmentation fault"),
    ]
    (row,) = ledger.attempts()
    assert (row.outcome, row.error) == ("crash", "segmentation fault")


def test_close_leaves_alone_what_another_attempt_has_by_now(ledger: Ledger) -> None:
    first = ledger.open(["a-1", "b-1"], "t1").number
    second = ledger.open(["b-1"], "t2").number
    assert ledger.close(first, "crash", "boo") == ["a-1"]
    assert ledger.trials() == [
        dataclasses.replace(A, attempt=first, error="boo"),
        dataclasses.replace(B, state="running", attempt=second),
    ]


def test_close_after_a_stop_leaves_trials_interrupted(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    ledger.publish(attempt, {"a-1": agent(0, 0, b"", state="interrupted")})
    assert ledger.close(attempt, "stopped", None, "interrupted") == ["a-1", "b-1"]
    assert [(row.state, row.error) for row in ledger.trials()] == [("interrupted", None)] * 2


def test_a_repeated_close_does_not_touch_trials_that_were_given_up(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1", "b-1"], "t").number
    ledger.close(attempt, "crash", "boo")
    ledger.fail(["a-1"], "boo for good")
    assert ledger.close(attempt, "again", "another") == ["a-1", "b-1"]
    assert [(row.state, row.error) for row in ledger.trials()] == [("failed", "boo for good"), ("pending", "boo")]


def test_members_are_in_pack_order_with_where_they_began(ledger: Ledger) -> None:
    first = ledger.open(["b-1", "a-1"], "t1").number
    ledger.publish(first, {"b-1": agent(30, 0)})
    ledger.close(first, "crash")
    second = ledger.open(["a-1", "b-1"], "t2").number
    assert ledger.open(["a-1", "b-1"], "t2").number == second  # and nobody is in it twice
    assert ledger.members() == [
        *(Member(first, "b-1", 0), Member(first, "a-1", 0)),
        *(Member(second, "a-1", 0), Member(second, "b-1", 30)),
    ]


def test_an_attempt_that_is_refused_has_no_members(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="unknown"):
        ledger.open(["a-1", "nobody"], "t")
    assert ledger.members() == [] and ledger.attempts() == []


def test_attempt_is_described(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.describe_attempt(attempt, "logs/attempt-1.log", "node-7", 4711)
    row = ledger.attempts()[0]
    assert (row.number, row.log, row.host, row.pid) == (attempt, "logs/attempt-1.log", "node-7", 4711)
    assert row.closed_at is None and row.outcome is None


def test_stop_request_is_in_the_file(ledger: Ledger, tmp_path: Path) -> None:
    assert not ledger.stop_requested()
    ledger.request_stop(True)
    ledger.disconnect()
    with Ledger(tmp_path) as again:
        assert again.stop_requested()
        again.request_stop(False)
        assert not again.stop_requested()


# Checkpoints


def test_checkpoint_waits_for_its_records(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 2)})
    assert ledger.publish(attempt, {"a-1": agent(30, 3, state="finished")}) == {"a-1": GAP}
    assert not (ledger.directory / "trials").exists()
    assert ledger.checkpoints("a-1") == [] and state(ledger) == "running"
    ledger.push(attempt, {"a-1": batch(2, 3)})
    assert ledger.publish(attempt, {"a-1": agent(30, 3, state="finished")}) == {"a-1": STORED}
    assert state(ledger) == "finished"


def test_published_file_and_row(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    for _ in range(2):  # the same again changes nothing
        ledger.publish(attempt, {"a-1": agent(10, 0, b"abc", score=1.5)})
    (row,) = ledger.checkpoints("a-1")
    assert row.path == "trials/a-1/checkpoints/agent_10.safetensors"
    assert (ledger.directory / row.path).read_bytes() == b"abc"
    assert row.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert (row.bytes, row.score, row.attempt, row.records, row.kind) == (3, 1.5, attempt, 0, "agent")


def test_there_is_one_best_agent_and_it_survives_a_rewind(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 5)})
    ledger.publish(attempt, {"a-1": agent(20, 2)})
    for timestep, score in ((10, 1.0), (50, math.nan)):
        ledger.publish(attempt, {"a-1": agent(timestep, 1, bytes([timestep]), kind="best", score=score)})
    opened = ledger.open(["a-1"], "t2")
    assert opened.resume["a-1"].timestep == 20
    best = [row for row in ledger.checkpoints("a-1") if row.kind == "best"]
    assert [(row.timestep, row.score, row.path) for row in best] == [(50, None, "trials/a-1/best_agent.safetensors")]
    assert (ledger.directory / best[0].path).read_bytes() == bytes([50])


def test_state_changes_without_a_file(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    assert ledger.publish(attempt, {"a-1": agent(0, 0, b"", state="interrupted")}) == {"a-1": STORED}
    assert state(ledger) == "interrupted" and ledger.checkpoints("a-1") == []


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damaged_checkpoint_falls_back_to_the_one_before(ledger: Ledger, damage: str) -> None:
    attempt = ledger.open(["a-1"], "t1").number
    ledger.push(attempt, {"a-1": batch(0, 9)})
    for timestep in (20, 40, 100):  # as text, 100 sorts before 20
        ledger.publish(attempt, {"a-1": agent(timestep, timestep // 20, b"weights of %d" % timestep)})
    ledger.publish(attempt, {"a-1": agent(100, 5, kind="best")})
    path = ledger.directory / "trials/a-1/checkpoints/agent_100.safetensors"
    if damage == "changed":
        path.write_bytes(path.read_bytes().replace(b"w", b"W"))
    elif damage == "cut":
        path.write_bytes(b"")
    else:
        path.unlink()
    resume = ledger.open(["a-1"], "t2").resume["a-1"]
    assert resume.timestep == 40 and stored(ledger) == records(0, 2)
    kept = [(row.timestep, row.kind) for row in ledger.checkpoints("a-1")]
    assert kept == [(20, "agent"), (40, "agent"), (100, "best")]
    for row in ledger.checkpoints("a-1"):
        (ledger.directory / row.path).unlink()
    assert ledger.open(["a-1"], "t3").resume == {"a-1": None}
    assert stored(ledger) == []


# Reading


def test_progress(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 3)})
    a, b = ledger.progress()
    assert (a.trial.id, a.trial.state) == ("a-1", "running")
    assert (a.records, a.timestep, a.env_steps, a.value, a.steps_per_second) == (3, 30, 120, 2.0, 100.0)
    assert (b.records, b.timestep, b.env_steps, b.value, b.steps_per_second) == (0, 0, 0, None, None)
    assert ledger.progress("unknown tag")[0].value is None


def test_changes_follow_a_rewind(ledger: Ledger) -> None:
    first = ledger.open(["a-1", "b-1"], "t1").number
    ledger.push(first, {"a-1": batch(0, 2)})
    ledger.push(first, {"b-1": batch(0, 1)})
    ledger.push(first, {"a-1": batch(2, 5)})
    ledger.publish(first, {"a-1": agent(20, 2)})
    before = ledger.changes(0, 100)
    assert [(row.trial, row.record.index) for row in before] == [
        *(("a-1", 0), ("a-1", 1), ("b-1", 0)),
        *(("a-1", 2), ("a-1", 3), ("a-1", 4)),
    ]
    assert [row.previous_env_steps for row in before] == [-1, 40, -1, 80, 120, 160]
    second = ledger.open(["a-1"], "t2").number
    assert ledger.changes(before[-1].revision, 100) == []
    ledger.push(second, {"a-1": batch(2, 4, shift=0.5)})
    after = ledger.changes(before[-1].revision, 100)
    # The numbers of deleted rows are not used again, or the cursor would miss these.
    assert [row.record for row in after] == records(2, 4, shift=0.5)
    assert [row.previous_env_steps for row in after] == [80, 120]
    assert [row.record.index for row in ledger.changes(0, 2)] == [0, 1]


def test_records_from_an_index(ledger: Ledger) -> None:
    attempt = ledger.open(["a-1"], "t").number
    ledger.push(attempt, {"a-1": batch(0, 5)})
    assert [row.record.index for row in ledger.records("a-1", 3)] == [3, 4]
    assert [row.record.index for row in ledger.records("a-1", 1, 2)] == [1, 2]


def test_last_agents_are_the_furthest_ones_and_never_the_best(ledger: Ledger) -> None:
    assert ledger.last_agents() == {}
    attempt = ledger.open(["a-1", "b-1"], "t").number
    for timestep in (20, 100):  # as text, 100 sorts before 20
        ledger.publish(attempt, {"a-1": agent(timestep, 0)})
    ledger.publish(attempt, {"a-1": agent(300, 0, kind="best"), "b-1": agent(50, 0, kind="best")})
    assert ledger.last_agents() == {"a-1": 100}


def test_last_records_follow_a_rewind(ledger: Ledger) -> None:
    assert ledger.last_records() == {}
    attempt = ledger.open(["a-1", "b-1"], "t1").number
    ledger.push(attempt, {"a-1": batch(0, 3), "b-1": batch(0, 1)})
    last = ledger.last_records()
    assert {trial: stored.record.index for trial, stored in last.items()} == {"a-1": 2, "b-1": 0}
    assert last["a-1"] == ledger.records("a-1", 2)[0]
    ledger.publish(attempt, {"a-1": agent(20, 2)})
    ledger.open(["a-1", "b-1"], "t2")
    assert ledger.last_records() == {"a-1": ledger.records("a-1", 1)[0]}


# A search


def test_a_paused_trial_is_not_left_over_and_goes_on_from_its_checkpoint(ledger: Ledger) -> None:
    first = ledger.open(["a-1", "b-1"], "one").number
    ledger.push(first, {"a-1": batch(0, 2), "b-1": batch(0, 2)})
    ledger.publish(first, {"a-1": agent(20, 2, state="paused")})
    assert ledger.close(first, "crash", "killed") == ["b-1"]
    assert ledger.states() == {"a-1": "paused", "b-1": "pending"}
    again = ledger.open(["a-1"], "two")
    assert ledger.states()["a-1"] == "running"
    assert again.resume["a-1"].timestep == 20 and stored(ledger) == records(0, 2)


def test_an_event_arrives_once_and_keeps_its_place(ledger: Ledger) -> None:
    ledger.add_events([("score", "x@1", {"score": 1.5}), ("score", "y@1", {"score": None})])
    ledger.add_events([("score", "x@1", {"score": 2.0}), ("begin", "x@1", {})])
    found = [(event.number, event.kind, event.key, event.data) for event in ledger.events()]
    assert found == [(1, "score", "x@1", {"score": 1.5}), (2, "score", "y@1", {"score": None}), (3, "begin", "x@1", {})]
