"""The long tests (soak.py, soak_control.py, soak_threads.py), for a few seconds."""

from __future__ import annotations

import json

import engine
import pytest
import scripts
from engine import DEADLINE

pytestmark = [pytest.mark.better, pytest.mark.timeout(8 * DEADLINE, method="signal")]


# The parts of soak_control.py that are not asked for.
CONTROL = ["--races=0", "--kills=0", "--resizes=0", "--leaks=0"]


def soak(*args: str, script: str = "soak.py") -> dict[str, int]:
    done = scripts.run(scripts.TESTS / script, *args, seconds=4 * DEADLINE)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    summary: dict[str, int] = json.loads(done.stdout)
    return summary


def test_workers_die_at_random_under_load() -> None:
    """Every result arrives or is lost with a killed worker, and nothing is left behind."""
    summary = soak("--kills", "100", "--cycles", "0")
    assert summary["kills"] == 100
    assert summary["lost"] <= 100 < summary["arrived"]


def test_pools_come_and_go_in_several_threads() -> None:
    """With all kinds of work, ended in all ways at any moment."""
    assert soak("--kills", "0", "--cycles", "200")["cycles"] == 200


def test_threads_share_a_pool_an_iterator_and_a_result() -> None:
    """Each item is given out once, each value is right, each callback is called once."""
    summary = soak("--seconds", "2", script="soak_threads.py")
    assert summary["rounds"] > 1


def test_cancelled_calls_have_one_outcome_each() -> None:
    summary = soak(*CONTROL, "--races", "1000", script="soak_control.py")
    assert summary["value"] + summary["cancelled"] == 1000


def test_no_item_runs_twice_without_leave() -> None:
    """Of calls with retries and without, whose workers are killed at random."""
    summary = soak(*CONTROL, "--kills", "50", script="soak_control.py")
    assert summary["arrived"] + summary["lost"] == summary["items"]


def test_resizing_at_random_loses_nothing() -> None:
    assert soak(*CONTROL, "--resizes", "50", script="soak_control.py")["arrived"] == 55 * 200


@pytest.mark.skipif(engine.PORTABLE, reason="memory_limit needs /proc")
def test_a_slow_leak_fails_no_item() -> None:
    summary = soak(*CONTROL, "--leaks", "300", script="soak_control.py")
    assert summary["workers"] > 3
