"""What the tests of a pool on a cluster run on its nodes."""

from __future__ import annotations

import os
import signal
from typing import Any

from gates import Diary, Gate

loads = 0


class Heavy:
    """A callable of 100 kB that counts, in each process, how often it was unpickled."""

    def __init__(self) -> None:
        self.ballast = os.urandom(100_000)

    def __setstate__(self, state: dict[str, Any]) -> None:
        global loads
        loads += 1
        self.__dict__.update(state)

    def __call__(self, x: int) -> tuple[int, int, int]:
        return x, os.getpid(), len(self.ballast)


def node_of(_: Any = None) -> int:
    """The process id of the node whose worker this is."""
    return os.getppid()


def noted(diary: Diary, x: int) -> int:
    diary.write(x)
    return x


def noted_bytes(item: tuple[Diary, bytes]) -> int:
    return noted(item[0], len(item[1]))


def note_item(item: tuple[Diary, int]) -> int:
    return noted(*item)


def noted_then_hold(diary: Diary, gate: Gate, x: int) -> int:
    diary.write(x)
    gate.hold()
    return x


def die_at_first(diary: Diary, x: int) -> int:
    """End the worker process at the first try of each item."""
    before = diary.lines().count(str(x))
    diary.write(x)
    if before == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def fail_at_first(diary: Diary, x: int) -> int:
    before = diary.lines().count(str(x))
    diary.write(x)
    if before == 0:
        raise LookupError(x)
    return x


def fail_if_odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"odd {x}")
    return x


def add_one(array: Any) -> Any:
    array += 1
    return array
