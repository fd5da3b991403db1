"""The functions that the workers run, and the loop that stands for computing.

They are in a module of their own, with no import of the rest, because pools that start fresh
interpreters import it in each worker.
"""

import time
from typing import Any


def double(number: int) -> int:
    return number * 2


def shout(text: str) -> str:
    return text.upper()


def add(left: int, right: int) -> int:
    return left + right


def promote(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "rank": record["rank"] + 1}


def identity(value: Any) -> Any:
    return value


def length_plus(data: bytes, number: int) -> int:
    return len(data) + number


def nap(seconds: float) -> float:
    """A task that waits: it takes its time without taking a core."""
    if seconds:
        time.sleep(seconds)
    return seconds


def spin(loops: int) -> int:
    """A task that computes: a fixed amount of work, so that two on one core take twice as long."""
    total = 0
    for number in range(loops):
        total += number
    return total


def loops_for(seconds: float) -> int:
    """How many loops of spin() take that long here.

    The best of many short tries: noise only adds, and a short one may well pass undisturbed.
    """
    probe = 2_000
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        spin(probe)
        best = min(best, time.perf_counter() - start)
    return max(1, round(probe * seconds / best))
