"""Options of calls that multiprocessing does not have: checks, and conversion for the engine."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable

from .._base import failures
from .._base.amounts import seconds_of
from .._base.stdlib import TYPE_CHECKING, T
from .places import NO_KEY, Keys, check_worker

if TYPE_CHECKING:
    from typing import Any, TypedDict, Unpack

    from .progress import Progress
    from .serial import Refusal

    class OtherOptions(TypedDict, total=False):
        """The options of `CallOptions` that do not change the type of the result."""

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
        """The keyword-only options of every method that submits.

        `return_exceptions` (bool, default False): exceptions of items are returned in the place of
        their results instead of being raised, as in `asyncio.gather`. A failure of the whole call
        is still raised: an exception of its iterable, or `PoolTerminated`.

        `fail_fast` (bool, default False): the first item that fails ends the call. Its exception is
        raised at once, not after the last chunk. Items that no worker has begun are withdrawn;
        results of items that are running are dropped. An iterator first returns the results that
        arrived before the failure, then raises the exception, and ends. Cannot be combined with
        `return_exceptions`.

        `task_timeout` (seconds, a float, default None: no limit): how long each call of the
        function may run, counted from when a worker begins it. After that time its worker is
        killed, with all processes that the task has started, and replaced. The item fails with
        `TaskTimeoutError`; other workers run the tasks that this worker had not begun. The
        `timeout` of multiprocessing's methods is different: how long the caller waits.

        `grace` (seconds, a float, default None): when the time is over or the call is cancelled,
        `TaskInterrupted` is first raised in the task, by a signal (SIGURG) at its next bytecode;
        the worker is killed `grace` seconds later. None: the worker is killed at once.

        `retries` (int, default 0): how many times an item is run again after it was lost (its
        worker died, or it took too much time or memory). `retry_on` (an exception type or a tuple
        of them; needs `retries`): also run items again that raised one of these.

        With a `task_timeout` or `retries`, the default `chunksize` is 1. A larger chunk is lost and
        run again as a whole; the time limit applies to each of its items.

        `priority` (int from -128 to 127, default 0): waiting calls with a higher priority get
        workers first; calls of equal priority take turns. Running tasks are not interrupted.

        `worker` (int) or `key` (any hashable), only for `apply`, `apply_async`, `stream` and calls
        of executors; for caches, models and connections that live in one worker. With `worker` the
        call runs only in the worker with this index (see `current_worker()`). With `key` all calls
        with an equal key run in the same worker; keys are spread evenly over the workers. A call
        waits for its worker even if others are idle. The replacement of a dead worker has its index
        and its keys. A call for a worker that `resize()` removed fails with `WorkerLostError`, and
        its keys move to other workers. An elastic pool starts the worker if it is not there.

        For `stream` and `flatmap`, `task_timeout` applies to each value: from when the generator is
        resumed until it yields, without time spent waiting for the reader. `retries` does not run a
        generator again that has yielded, since its values may have been read. With
        `return_exceptions`, the exception that ends a generator is its last value.

        `progress`: `True` for a tqdm bar; a str for a bar with that description; a dict of
        parameters for tqdm; or a function. The function is called as `progress(done, total)` with
        two ints, the items done and all items (`total` is None if it is not known), at most ten
        times a second and once at the end, on a separate thread. Items count as each is done; in a
        `ThreadPool`, when their chunk is done. Raises `ImportError` if a bar is asked for and tqdm
        is not installed, and `TypeError` for any other type.
        """

        return_exceptions: bool
else:
    # So that tools can evaluate the annotations of public methods without importing typing.
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

_PIN_EACH = 0xFFFF  # instead of a worker's index + 1: each task has its own worker

NAMES = frozenset(
    """
    fail_fast grace key priority progress retries retry_on return_exceptions task_timeout worker
    """.split()
)
# Options that need worker processes.
_OF_PROCESSES = ("grace", "retries", "retry_on", "task_timeout")


class Checked:
    """The options of one call, checked. `engine` is the engine's form; None: all defaults."""

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
            raise ValueError("retry_on needs retries= of at least 1")
        flags = _RETRY_ON if self.retry_on else 0
        if options.get("return_exceptions"):
            flags |= _RETURN_EXCEPTIONS
        if options.get("fail_fast"):
            if flags & _RETURN_EXCEPTIONS:
                raise ValueError(
                    "fail_fast and return_exceptions exclude each other: the one raises the first "
                    "exception, the other raises none"
                )
            flags |= _FAIL_FAST
        # With these options the default chunksize is 1.
        self.wants_single_items = limit is not None or retries > 0
        self.worker = options.get("worker")
        self.key = options.get("key", NO_KEY)
        if self.worker is not None and self.key is not NO_KEY:
            raise ValueError("a call can have worker= or key=, not both")
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
        """Does the call have to run in one certain worker?"""
        return self.worker is not None or self.key is not NO_KEY

    def place(self, processes: int, keys: Keys) -> None:
        """Choose the worker for a call with `worker` or `key`."""
        if self.worker is not None:
            self._pin(check_worker(self.worker, processes))
        elif self.key is not NO_KEY:
            self._pin(keys.place(self.key, processes))

    def check_place(self, processes: int) -> None:
        """Raise what `place()` would raise."""
        if self.worker is not None:
            check_worker(self.worker, processes)
        hash(self.key)

    def _pin(self, index: int) -> None:
        flags, limit, grace, retries, _, priority = self.engine or (0,) * 6
        self.engine = (flags, limit, grace, retries, index + 1, priority)

    def spread(self) -> None:
        """Send the task with each index to the worker with the same index."""
        self.refuse_place("broadcast")
        self._pin(_PIN_EACH - 1)

    def refuse_place(self, method: str) -> None:
        """Raise `ValueError` if a call with many tasks has a `worker` or a `key`."""
        if self.has_place:
            name = "key" if self.worker is None else "worker"
            raise ValueError(
                f"{name} is for single calls: apply(), apply_async(), stream(); not {method}()"
            )

    def wrap(self, func: Callable[..., T]) -> Callable[..., T]:
        """The callable to send to the workers."""
        retrying: Any = failures.Retrying(func, self.retry_on)
        return retrying if self.retry_on else func


def check_options(options: CallOptions) -> Checked:
    """Check the options of a call; raise `TypeError` or `ValueError` for invalid ones."""
    return Checked(options)


def check_thread_options(options: CallOptions) -> Checked:
    """`check_options()` for a ThreadPool, whose tasks cannot be killed and are never lost."""
    checked = Checked(options)
    for name in _OF_PROCESSES:
        if options.get(name):
            raise ValueError(f"{name} needs worker processes: a thread cannot be killed")
    return checked


def check_serial_options(options: CallOptions, refuse: Refusal) -> Checked:
    """`check_options()` for a serial pool. Options that need processes raise `ValueError` if the
    program asked for a serial pool, and are ignored if CPOOL_SERIAL did."""
    checked = Checked(options)
    needed = [name for name in _OF_PROCESSES if options.get(name)]
    if not needed:
        return checked
    refuse(needed)
    rest: Any = {name: value for name, value in options.items() if name not in needed}
    return Checked(rest)


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = seconds_of(name, value)
    if seconds < 0:
        raise ValueError(f"{name} must be a number of seconds from 0 on, not {value!r}")
    return seconds


def _ns(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, int(seconds * 1e9)) if seconds > 0 else 0


def _count(name: str, value: Any) -> int:
    number = operator.index(value)
    if not 0 <= number < 2**31:
        raise ValueError(f"{name} must be an int from 0 on, not {value!r}")
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
            raise TypeError(f"retry_on must be an exception type or a tuple of them, not {each!r}")
    return types


def refuse_options(options: CallOptions) -> None:
    """Raise `ValueError` for any option, if the pool runs on the standard library's engine."""
    _check_names(options)
    for name in options:
        raise ValueError(f"{name} needs a pool that runs on cpool's engine")


def _check_names(options: CallOptions) -> None:
    for name in options:
        if name not in NAMES:
            raise TypeError(f"unexpected keyword argument {name!r}")
