"""Waiting calls: the order in which they are served, and the cost of each if there are many."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from cpool._cluster.jobs import Job, Part
from cpool._cluster.plan import Speed
from cpool._cluster.waiting import Keyed, Waiting


def call(speed: Speed, priority: int = 0, key: int | None = None) -> Job:
    job = Job(None, "number", b"", "function", 0, speed, {"retries": 0})
    job.priority, job.key = priority, key
    job.ready.append(Part(job, 0, 0, 1, []))
    return job


def order(waiting: Waiting) -> list[Job]:
    return [job for level in waiting.by_priority() for job in level.in_turn()]


def known() -> Speed:
    speed = Speed()
    speed.add(1.0, 1)
    return speed


def test_calls_take_turns_whether_their_time_is_known_or_not() -> None:
    waiting = Waiting()
    jobs = [call(speed) for speed in (known(), Speed(), known(), Speed())]
    jobs.append(call(known(), 5))
    for job in jobs:
        waiting.add(job)
    waiting.add(jobs[2])  # keeps its turn
    assert order(waiting) == [jobs[4], *jobs[:4]]
    waiting.again(jobs[0])
    assert order(waiting) == [jobs[4], *jobs[1:4], jobs[0]]
    jobs[1].ready.clear()
    waiting.again(jobs[1])
    waiting.remove(jobs[4])
    waiting.remove(jobs[4])
    assert order(waiting) == [jobs[2], jobs[3], jobs[0]]
    for job in jobs:
        waiting.remove(job)
    assert not waiting.levels


def test_a_full_node_leaves_out_whole_lines() -> None:
    waiting = Waiting()
    fresh, measured = [call(Speed()) for _ in range(3)], [call(known()) for _ in range(3)]
    for job in itertools.chain(*zip(fresh, measured, strict=True)):
        waiting.add(job)
    [level] = waiting.by_priority()
    seen = []
    for job in level.in_turn():
        seen.append(job)
        if job is fresh[0]:
            assert job.line is not None
            level.closed.append(job.line)
    assert seen == [fresh[0], *measured]
    assert len(order(waiting)) == 6  # the next node sees all


def test_the_calls_of_a_function_are_measured_together() -> None:
    waiting = Waiting()
    speed, other = Speed(), Speed()
    jobs = [call(each) for each in (speed, other, speed)]
    for job in jobs:
        waiting.add(job)
    speed.add(1.0, 1)
    waiting.measured(speed)
    [level] = waiting.by_priority()
    assert [*level.measured] == [jobs[0], jobs[2]] and [*level.fresh] == [jobs[1]]
    assert not speed.fresh and [*other.fresh] == [jobs[1]]


def test_two_calls_of_a_key_wait_before_the_others() -> None:
    waiting = Waiting()
    keyed = Keyed(waiting)
    jobs = [call(known(), 0, 1) for _ in range(4)]
    jobs.append(call(known(), 3, 1))
    other = call(known(), 0, 2)
    for job in (*jobs, other):
        keyed.add(job)
    assert order(waiting) == [*jobs[:2], other]
    for job in jobs[:2]:  # sent to their node
        job.ready.clear()
        waiting.again(job)
    keyed.leave(jobs[0])
    assert order(waiting) == [jobs[4], other]  # by its priority
    jobs[2].ready.clear()  # cancelled, behind the others
    keyed.remove(jobs[2])
    jobs[4].ready.clear()  # cancelled, in front
    keyed.remove(jobs[4])
    assert order(waiting) == [other, jobs[3]]
    keyed.leave(jobs[1])
    jobs[3].ready.clear()
    keyed.remove(jobs[3])
    assert order(waiting) == [other]
    assert [*keyed.counts] == [2] and not keyed.behind


def steps(count: int, work: Callable[[Waiting, list[Job]], Any]) -> int:
    """How many calls the work looks at while this many calls wait."""
    waiting = Waiting()
    jobs = [call(known()) for _ in range(count)]
    for job in jobs:
        waiting.add(job)
    looked = 0

    class Counted(type(jobs[0].line)):  # type: ignore[misc]
        def __iter__(self) -> Any:
            nonlocal looked
            for each in super().__iter__():
                looked += 1
                yield each

    [level] = waiting.by_priority()
    level.measured = Counted(level.measured)
    for job in jobs:
        job.line = level.measured
    work(waiting, jobs)
    return looked


def serve_ten(waiting: Waiting, jobs: list[Job]) -> None:
    for _ in range(10):
        [level] = waiting.by_priority()
        waiting.again(next(level.in_turn()))


def cancel_ten(waiting: Waiting, jobs: list[Job]) -> None:
    for job in jobs[:10]:
        waiting.remove(job)


@pytest.mark.parametrize("work", [serve_ten, cancel_ten])
def test_no_step_looks_at_all_calls(work: Callable[[Waiting, list[Job]], Any]) -> None:
    assert steps(20, work) == steps(2000, work)
