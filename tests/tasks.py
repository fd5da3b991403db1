"""The functions and classes that tests send to workers. Importable by name, as pickling needs."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool

from engine import TYPE_CHECKING
from gates import Diary, Gate

if TYPE_CHECKING:
    from typing import Any, NoReturn

# Plain functions


def add(a: Any, b: Any = 10) -> Any:
    return a + b


def square(x: Any) -> Any:
    return x * x


def given(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def reciprocal(x: Any) -> Any:
    return 1 / x


def identity(x: Any) -> Any:
    return x


def nothing() -> None:
    pass


def call(func: Any, args: Any = (), **kwds: Any) -> Any:
    return func(*args, **kwds)


def arguments(*args: Any, **kwds: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwds


def pid(*_: Any) -> int:
    return os.getpid()


def kind(x: Any) -> tuple[str, Any]:
    """The type's name as the worker sees it, and the value."""
    return type(x).__name__, x


def size(x: Any) -> int:
    return len(x)


def zeros(count: int) -> bytes:
    return bytes(count)


def append(items: list[Any], x: Any = None) -> list[Any]:
    items.append(x)
    return items


def same_twice(_: Any) -> list[list[int]]:
    shared = [1]
    return [shared, shared]


# Functions with an effect that the test sees


def noted(diary: Diary, x: Any) -> Any:
    diary.write(x)
    return x


def note_item(item: tuple[Diary, Any]) -> Any:
    return noted(*item)


def noted_then_fail_on(diary: Diary, bad: Any, x: Any) -> Any:
    diary.write(x)
    if x == bad:
        raise ValueError(f"no {x}")
    return x


def held(gate: Gate, x: Any = None) -> Any:
    return gate.hold(x)


def hold(gate: Gate) -> None:
    gate.hold()


def fork_and_hold(gate: Gate) -> int:
    """Fork a child that stays at the gate, whatever becomes of this process; its pid."""
    child = os.fork()
    if child == 0:
        try:
            gate.hold()
        finally:
            os._exit(0)
    return child


def first_then_hold(item: tuple[Gate, int]) -> int:
    """Pass with item 0, and wait with every other item."""
    gate, number = item
    if number:
        gate.hold()
    return number


def held_if(gate: Gate, which: Any, x: Any) -> Any:
    return gate.hold(x) if x == which else x


def held_pid(gate: Gate, _: Any = None) -> int:
    gate.hold()
    return os.getpid()


def held_then_fail(gate: Gate, x: Any) -> NoReturn:
    gate.hold()
    raise ValueError(f"no {x}")


def await_first(item: tuple[Gate, int]) -> int:
    """Wait with item 0, and pass with every other item."""
    gate, number = item
    if number == 0:
        gate.wait()
    return number


_calls = 0


def count_calls(_: Any = None) -> int:
    """How often this worker has called the function: a global function keeps its state."""
    global _calls
    _calls += 1
    return _calls


# What a worker remembers from its initializer

_remembered: tuple[Any, ...] = ()


def remember(*args: Any) -> None:
    global _remembered
    _remembered = args


def remembered(_: Any = None) -> tuple[Any, ...]:
    return _remembered


def noted_then_die_on(diary: Diary, bad: Any, x: Any) -> Any:
    diary.write(x)
    return die_on(bad, x)


# Failures


def fail(x: Any = None) -> NoReturn:
    raise ValueError(f"no {x}")


def fail_on(bad: Any, x: Any) -> Any:
    if x == bad:
        raise ValueError(f"no {x}")
    return x


def fail_on_pair(pair: tuple[Any, Any]) -> Any:
    return fail_on(*pair)


def raise_(error: BaseException) -> NoReturn:
    raise error


def needs_two(_: Any = None) -> NoReturn:
    raise NeedsTwo(4, "why")


def make_and_raise(cls: type[BaseException], *args: Any) -> NoReturn:
    raise cls(*args)


class Refused(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class NeedsTwo(Exception):
    """An exception that pickles but does not unpickle: its args are not its parameters."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


class Abandon(BaseException):
    """Not an Exception."""


class Unpicklable:
    """An object whose pickling raises an error of its own."""

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not for sending")

    def __repr__(self) -> str:
        return "<Unpicklable>"


class UnpicklableError(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not for sending")


class BreaksOnArrival:
    """An object that pickles, and whose unpickling raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_, (LookupError("lost on the way"),)


def unpicklable(_: Any = None) -> Unpicklable:
    return Unpicklable()


def unpicklable_if(bad: Any, x: Any) -> Any:
    return Unpicklable() if x == bad else x


def breaks_on_arrival(_: Any = None) -> BreaksOnArrival:
    return BreaksOnArrival()


def raise_unpicklable(_: Any = None) -> NoReturn:
    raise UnpicklableError("original text")


def raise_local(_: Any = None) -> NoReturn:
    class LocalError(Exception):
        pass

    raise LocalError("original text")


# The end of a worker


def is_first(path: str) -> bool:
    """Whether no other call, in any process, has been made with this path."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def read_nowhere() -> None:
    import ctypes

    ctypes.string_at(0)


DEATHS: dict[str, Callable[[], object]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": read_nowhere,
    "SIGABRT": os.abort,
    "exit 7": lambda: os._exit(7),
    "exit 0": lambda: os._exit(0),
}


def die(how: str = "SIGKILL") -> None:
    DEATHS[how]()


def die_on(bad: Any, x: Any) -> Any:
    if x == bad:
        die()
    return x


def die_on_pair(pair: tuple[Any, Any]) -> Any:
    return die_on(*pair)


def exit_on(bad: Any, x: Any) -> Any:
    if x == bad:
        sys.exit(1)
    return x


class DiesOnArrival:
    """An object whose unpickling kills the process that tries it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return die, ()


class DiesOnLeaving:
    """An object whose pickling kills the process that tries it."""

    def __reduce__(self) -> NoReturn:
        die()
        raise AssertionError("it lives")


def dies_on_leaving() -> DiesOnLeaving:
    return DiesOnLeaving()


def exit_with(status: Any = None) -> NoReturn:
    sys.exit(status)


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


# Callables with state


class Counter:
    """Counts the calls of one object. A fresh copy starts from zero."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: Any = None) -> int:
        self.calls += 1
        return self.calls

    def count(self, _: Any = None) -> int:
        return self(_)


class CountsPickling:
    """A function object that counts how often the parent pickles it."""

    def __init__(self) -> None:
        self.times = 0

    def __reduce__(self) -> tuple[Any, ...]:
        self.times += 1
        return CountsPickling, ()

    def __call__(self, x: Any) -> Any:
        return x * x


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def moved(self, dx: int, dy: int = 0) -> Point:
        return Point(self.x + dx, self.y + dy)

    @classmethod
    def at(cls, x: int) -> Point:
        return cls(x, x)

    @staticmethod
    def norm(x: int, y: int) -> int:
        return x * x + y * y


# Iterables


class Sized:
    """An iterable that may claim another length, and may raise at its end."""

    def __init__(
        self, items: Any, length: int | None = None, error: BaseException | None = None
    ) -> None:
        self.items = list(items)
        self.length = len(self.items) if length is None else length
        self.error = error
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.threads.add(threading.get_ident())
            yield item
        if self.error is not None:
            raise self.error


def then_raise(items: Any, error: BaseException) -> Iterator[Any]:
    yield from items
    raise error


# The worker's process


def describe(_: Any = None) -> dict[str, Any]:
    """What user code in a worker can find out about its process."""
    me = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    assert parent is not None
    return {
        "active_children": multiprocessing.active_children(),
        "alive_parent": parent.is_alive(),
        "authkey": bytes(me.authkey),
        "class": type(me).__name__,
        "cmdline": open("/proc/self/cmdline", encoding="utf-8").read(),
        "comm": open("/proc/self/comm", encoding="utf-8").read(),
        "config": sorted(me._config),  # type: ignore[attr-defined]
        "cwd": os.getcwd(),
        "daemon": me.daemon,
        "environ": dict(os.environ),
        "group": os.getpgrp(),
        "identity": me._identity,
        "limit": sys.getrecursionlimit(),
        "name": me.name,
        "native_id": threading.get_native_id(),
        "parent_name": parent.name,
        "parent_pid": parent.pid,
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "repr": repr(me),
        "start_method": multiprocessing.get_start_method(),
        "sys.argv": sys.argv,
        "tasks": len(os.listdir("/proc/self/task")),
        "threads": [thread.name for thread in threading.enumerate()],
    }


def pool_inside() -> None:
    multiprocessing.Pool(1)


def process_inside() -> None:
    multiprocessing.Process(target=nothing).start()


def thread_pool_inside(items: list[int]) -> list[int]:
    with ThreadPool(2) as pool:
        return pool.map(square, items)


def log_format(layout: str) -> str:
    import logging

    record = logging.getLogger(__name__).makeRecord("x", logging.INFO, "", 0, "", (), None)
    return logging.Formatter(layout).format(record)


def held_random(gate: Gate) -> float:
    gate.hold()
    return random.random()


class RebuiltBy:
    """Records the thread that unpickled it."""

    def __getstate__(self) -> bool:
        return True

    def __setstate__(self, _: bool) -> None:
        self.thread = threading.get_ident()


def frozen_objects() -> int:
    return gc.get_freeze_count()


def signal_self(number: int) -> int:
    """Send this process a signal; its handler has run when the call returns."""
    os.kill(os.getpid(), number)
    return 1


def has_default(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_DFL


def blocked_signals() -> list[int]:
    return sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def stdin() -> tuple[str, int, str]:
    return sys.stdin.read(), sys.stdin.fileno(), os.readlink("/proc/self/fd/0")


def describe_stdin(_: Any = None) -> tuple[str, bool, str]:
    """Its file, whether programs inherit that, and its encoding."""
    fd = sys.stdin.fileno()
    path = os.readlink(f"/proc/self/fd/{fd}")
    return path, os.get_inheritable(fd), sys.stdin.encoding


def _send_stdin(pipe: Any) -> None:
    pipe.send((sys.stdin.read(), os.readlink(f"/proc/self/fd/{sys.stdin.fileno()}")))


def stdin_of_process() -> tuple[bool, Any]:
    """Is the worker's stdin closed after it has forked a process, and the stdin of that?"""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_send_stdin, args=(theirs,))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return sys.stdin.closed, found


def count_descriptors(_: Any = None) -> int:
    return len(os.listdir("/proc/self/fd"))


def send_all(sock: Any, data: bytes) -> str:
    with sock:
        sock.sendall(data)
        return type(sock).__name__


def send_to(link: Any) -> str:
    with link:
        link.send("hello")
        return type(link).__name__


def use_lock(_: Any = None) -> bool:
    """Use the lock that the initializer was given."""
    [lock] = _remembered
    with lock:
        return not lock.acquire(block=False)


def value_of(thing: Any) -> Any:
    return thing.value
