"""What the tests of a pool on a cluster run on its nodes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import tasks
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
    server = os.getppid()  # the fork server, which the node has started
    stat = Path(f"/proc/{server}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def noted(diary: Diary, x: int) -> int:
    diary.write(x)
    return x


def noted_and_back(diary: Diary, data: bytes) -> bytes:
    diary.write(len(data))
    return data


class Holder:
    """Pickles bytes or a bytearray as a buffer."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Holder, (pickle.PickleBuffer(self.data),)


def kind_and_back(holder: Holder) -> tuple[str, Holder]:
    return type(holder.data).__name__, holder


def noted_bytes(item: tuple[Diary, bytes]) -> int:
    return noted(item[0], len(item[1]))


def note_item(item: tuple[Diary, int]) -> int:
    return noted(*item)


def note_and_return(item: tuple[Diary, int, Any]) -> Any:
    diary, number, value = item
    diary.write(number)
    return value


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


class Unloadable:
    """Its pickle cannot be loaded."""

    def __reduce__(self) -> Any:
        return raise_os_error, ()


def raise_os_error() -> Any:
    raise OSError("not loaded")


class Rebuilt:
    """Unpickles as what `rebuild()` returns."""

    def __reduce__(self) -> Any:
        return call_rebuild, ()


def call_rebuild() -> Any:
    return rebuild()


def rebuild() -> Any:
    """A test puts another function in its place, in its own process."""
    raise NotImplementedError


def give(what: str) -> Any:
    """Return or raise what the name says."""
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        raise SystemExit(3)
    if what == "needs two":
        raise tasks.NeedsTwo(1, 2)
    kinds = {"lock": threading.Lock, "unloadable": Unloadable, "rebuilt": Rebuilt}
    return kinds.get(what, str)()
