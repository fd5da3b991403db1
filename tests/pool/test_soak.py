"""The long tests (soak.py, soak_threads.py), for a few seconds."""

from __future__ import annotations

import json

import pytest
import scripts
from engine import DEADLINE

pytestmark = [pytest.mark.better, pytest.mark.timeout(8 * DEADLINE, method="signal")]


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
