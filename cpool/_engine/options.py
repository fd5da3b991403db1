"""What a call may ask for beyond multiprocessing's parameters: names, checks, the engine's form."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable

from .._base import failures
from .._base.amounts import seconds_of
from .._base.stdlib import TYPE_CHECKING, T
from .places import NO_KEY, Keys, check_worker
from .serial import refuse

if TYPE_CHECKING:
    from typing import Any, TypedDict, Unpack

    from .progress import Progress

    class OtherOptions(TypedDict, total=False):
        """The options of `CallOptions` that leave the type of the result as it is."""

        fail_fast: bool
        grace: float | None
        key: Hashable
        priority: int
        progress: Progress
        retries: int
        retry_on: type[BaseException] | tuple[type[BaseException], ...]
        task_timeout: float | None
        worker: int

    class CallOptions(OtherOptions, total=False):
        """The keyword-only options that every submitting method takes.

        `return_exceptions` (bool, False): the exceptions of items stand among the results instead
        of being raised, as in `asyncio.gather`. What a call fails with as a whole is raised all the
        same: what its iterable raises, or the end of the pool.

        `fail_fast` (bool, False): the first item that fails ends the call. What no worker has begun
        is withdrawn, and the exception is raised at once, not when the last chunk is done; the
        results of what runs are dropped. An iterator gives the results before the failure that are
        there, then raises it, and ends.

        `task_timeout` (seconds, None): how long each call of the function may run, counted from
        when a worker begins it. Then its worker is killed, with all processes that the task has
        started, and replaced, and that item fails with `TaskTimeoutError`; what else the worker had
        not begun is run by others. `timeout` stays what it is in multiprocessing: how long the
        caller waits.

        `grace` (seconds, None): when the time is over, or the call is cancelled, `TaskInterrupted`
        is raised in the task first, by a signal (SIGURG) at its next bytecode; the worker is killed
        so many seconds later. None: at once.

        `retries` (int, 0): an item that was lost (its worker died, or it took too much time or
        memory) is run again, so many times. `retry_on` (an exception type or a tuple of them): an
        item that raised one of these as well.

        With a `task_timeout` or `retries` and no `chunksize`, a chunk is one item. A larger chunk
        is lost and run again as a whole; the time limit holds for each of its items.

        `priority` (int, 0): among calls that wait, those with a higher one are served first; equal
        ones take turns. From -128 to 127. What runs is not interrupted.

        `worker` (int) or `key` (anything hashable), of `apply`, `apply_async`, `stream` and
        executors' calls alone: the call runs in the worker with this index (see `current_worker()`)
        and no other, or calls of one key run in one worker as long as it lives, with keys spread
        evenly over the workers: for caches, models and connections that stay where they are. Calls
        wait for their worker though others are idle. The worker that takes the place of one that
        has died has its index and its keys. A call for a worker that `resize()` has ended fails
        with `WorkerLostError`; its keys go to others. An elastic pool starts the worker of a call
        where it is not there.

        Of `stream` and `flatmap`: `task_timeout` holds for each value, from when the generator goes
        on to when it yields; waiting for the reader does not count. A generator that has yielded is
        not run again by `retries`, since its values may be read already. With
        `return_exceptions` what ends a generator is its last value.

        `progress`: `True` for a bar by tqdm, a str for one with that description, a dict for one
        with these of tqdm's parameters; or a function, which is called as `progress(done, total)`
        with numbers of items, at most ten times a second and at the end (`total` is None where
        nobody knows it), on a thread of its own. Items of a chunk count as they are done, but in a
        `ThreadPool` when the whole chunk is. `ImportError` where tqdm is not installed.
        """

        return_exceptions: bool
else:
    # So that tools can evaluate the annotations of public methods, without an import of typing.
    Any = CallOptions = OtherOptions = object
    Unpack = {object: object}

__all__ = [
    "CallOptions",
    "Checked",
    "OtherOptions",
    "Unpack",
    "check_options",
    "check_serial_options",
    "check_thread_options",
    "refuse_options",
]

# The engine's flags.
_RETURN_EXCEPTIONS = 0x1
_FAIL_FAST = 0x2
_RETRY_ON = 0x4

_PIN_EACH = 0xFFFF  # in place of a worker's index, plus one

NAMES = frozenset(
    """
    fail_fast grace key priority progress retries retry_on return_exceptions task_timeout worker
    """.split()
)
# What only processes can do.
_OF_PROCESSES = ("grace", "retries", "retry_on", "task_timeout")


class Checked:
    """The options of one call, checked. `engine` is their form there; None: nothing is asked."""

    engine: tuple[int, int, int, int, int, int] | None
    progress: Progress
    worker: int | None
    key: Any  # or NO_KEY
    retry_on: tuple[type[BaseException], ...]

    def __init__(self, options: CallOptions) -> None:
        _check_names(options)
        self.progress = options.get("progress")
        limit = _seconds("task_timeout", options.get("task_timeout"))
        if limit == 0:
            raise ValueError("task_timeout must be more than 0 seconds, or None")
        grace = _seconds("grace", options.get("grace"))
        retries = _count("retries", options.get("retries", 0))
        self.retry_on = _types(options.get("retry_on", ()))
        if self.retry_on and retries == 0:
            raise ValueError("retry_on needs retries")
        flags = _RETRY_ON if self.retry_on else 0
        if options.get("return_exceptions"):
            flags |= _RETURN_EXCEPTIONS
        if options.get("fail_fast"):
            if flags & _RETURN_EXCEPTIONS:
                raise ValueError(
                    "fail_fast raises the first exception, return_exceptions raises none"
                )
            flags |= _FAIL_FAST
        # One item a chunk, where nothing else is said.
        self.wants_single_items = limit is not None or retries > 0
        self.worker = options.get("worker")
        self.key = options.get("key", NO_KEY)
        if self.worker is not None and self.key is not NO_KEY:
            raise ValueError("a call has a worker or a key, not both")
        priority = _priority(options.get("priority", 0))
        asked = (flags, _ns(limit), _ns(grace), retries, 0, priority)
        self.engine = asked if any(asked) else None

    @property
    def returns_exceptions(self) -> bool:
        return self.engine is not None and self.engine[0] & _RETURN_EXCEPTIONS != 0

    @property
    def fails_fast(self) -> bool:
        return self.engine is not None and self.engine[0] & _FAIL_FAST != 0

    @property
    def has_place(self) -> bool:
        """Is the call for one worker?"""
        return self.worker is not None or self.key is not NO_KEY

    def place(self, processes: int, keys: Keys) -> None:
        """Choose the worker of a call that is to have one."""
        if self.worker is not None:
            self._pin(check_worker(self.worker, processes))
        elif self.key is not NO_KEY:
            self._pin(keys.place(self.key, processes))

    def check_place(self, processes: int) -> None:
        """Raises what `place()` raises."""
        if self.worker is not None:
            check_worker(self.worker, processes)
        hash(self.key)

    def _pin(self, index: int) -> None:
        flags, limit, grace, retries, _, priority = self.engine or (0,) * 6
        self.engine = (flags, limit, grace, retries, index + 1, priority)

    def spread(self) -> None:
        """The task with each index is for the worker with that index."""
        self.refuse_place("broadcast")
        self._pin(_PIN_EACH - 1)

    def refuse_place(self, method: str) -> None:
        """Raise where the call is to run in one worker, but has tasks for many."""
        if self.has_place:
            name = "key" if self.worker is None else "worker"
            raise ValueError(
                f"{name} is for single calls: apply(), apply_async(), stream(); not {method}()"
            )

    def wrap(self, func: Callable[..., T]) -> Callable[..., T]:
        """The callable that goes to the workers."""
        retrying: Any = failures.Retrying(func, self.retry_on)
        return retrying if self.retry_on else func


def check_options(options: CallOptions) -> Checked:
    """Raises `TypeError` or `ValueError` for what cannot be asked for."""
    return Checked(options)


def check_thread_options(options: CallOptions) -> Checked:
    """The same for a ThreadPool, where nothing can be killed and so nothing is lost."""
    checked = Checked(options)
    for name in _OF_PROCESSES:
        if options.get(name):
            raise ValueError(f"{name} needs worker processes: a thread cannot be ended")
    return checked


def check_serial_options(options: CallOptions, is_asked: bool) -> Checked:
    """The same for a serial pool; where the environment asked for it they are ignored."""
    checked = Checked(options)
    needed = [name for name in _OF_PROCESSES if options.get(name)]
    if not needed:
        return checked
    refuse(needed, is_asked)
    rest: Any = {name: value for name, value in options.items() if name not in needed}
    return Checked(rest)


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = seconds_of(name, value)
    if seconds < 0:
        raise ValueError(f"{name} must be a number of seconds, not {value!r}")
    return seconds


def _ns(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, int(seconds * 1e9)) if seconds > 0 else 0


def _count(name: str, value: Any) -> int:
    number = operator.index(value)
    if not 0 <= number < 2**31:
        raise ValueError(f"{name} must be a number from 0, not {value!r}")
    return number


def _priority(value: Any) -> int:
    number = operator.index(value)
    if not -128 <= number < 128:
        raise ValueError(f"priority must be from -128 to 127, not {value!r}")
    return number


def _types(value: Any) -> tuple[type[BaseException], ...]:
    types = value if isinstance(value, tuple) else (value,)
    for each in types:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"retry_on must be types of exceptions, not {each!r}")
    return types


def refuse_options(options: CallOptions) -> None:
    """Raise for options of a call whose pool runs on the standard library's engine."""
    _check_names(options)
    for name in options:
        raise ValueError(f"{name} needs a pool that runs on cpool's engine")


def _check_names(options: CallOptions) -> None:
    for name in options:
        if name not in NAMES:
            raise TypeError(f"unexpected keyword argument {name!r}")
