"""A call in progress: the source of its items, and the chunks that are ready to be sent."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator

from .._base.stdlib import TYPE_CHECKING
from . import worker
from .frames import dumps, size_of
from .plan import Speed

if TYPE_CHECKING:
    from typing import Any
else:
    Any = object

__all__ = ["Feeder", "Job", "Keys", "Part", "Pulls", "call_part", "feeder_here"]

# Iterators that run no code of the program: many items are taken at once.
_CONTAINERS = (list, tuple, range, str, bytes, dict, set, frozenset)
_EMPTY: list[Any] = [[], (), range(0), "", b"", {}, set()]
_PLAIN = tuple(type(iter(empty)) for empty in _EMPTY)

# So many keys are remembered. Later keys share numbers, by their hash.
_MOST_KEYS = 1 << 16

# When a pull of an item has taken so many seconds, other calls may pull at the same time.
_OVERTAKEN = 1.0


class Pulls:
    """A lock for pulling items: one call of a pool pulls at a time.

    Iterables of one pool may share a source, so only one item is pulled at a time. But others need
    not wait for a pull that has taken a second, or whose code makes a call of the same pool.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.end = 0.0  # when others need no longer wait for the current pull
        self.owner = 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        is_mine = self.lock.acquire(blocking=False)
        while not is_mine and (left := self.end - time.monotonic()) > 0:
            is_mine = self.lock.acquire(timeout=min(left, 0.05))
        if not is_mine:
            yield
            return
        self.end = time.monotonic() + _OVERTAKEN
        self.owner = threading.get_ident()
        try:
            yield
        finally:
            self.owner = 0
            self.lock.release()

    def each(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """The items of the iterator, each pulled in a turn of its own."""
        while True:
            with self.turn():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def calls(self) -> None:
        """Called when this thread makes a call of the pool."""
        if self.owner == threading.get_ident():
            self.end = 0.0


class Keys:
    """Numbers for the keys of calls. Nodes only get the number of a key."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.lock = threading.Lock()

    def number(self, key: Hashable) -> int:
        """The number of a key. Raises `TypeError` if the key is not hashable."""
        with self.lock:
            found = self.numbers.get(key)
            if found is None:
                found = len(self.numbers)
                if found >= _MOST_KEYS:
                    return _MOST_KEYS + hash(key) % _MOST_KEYS
                self.numbers[key] = found
            return found


class Part:
    """One chunk of a call: `start` is its place, `count` the number of its items."""

    __slots__ = (
        "attempts", "count", "data", "is_extra", "job", "node", "number", "seconds", "size", "start"
    )  # fmt: skip

    def __init__(self, job: Job, number: int, start: int, count: int, data: list[Any]) -> None:
        self.job = job
        self.number = number
        self.start = start
        self.count = count
        self.data = data
        self.size = sum(map(size_of, data))
        self.attempts = 0  # how often it was lost with a node
        self.seconds = 0.0  # the time that it was expected to take when it was sent
        self.is_extra = False  # sent beyond the room of a node that other calls have filled
        self.node = ""  # the address of the node that has it


class Job:
    """One call of a method of the pool. Only the keeper's thread uses it, and its feeder."""

    def __init__(
        self,
        result: Any,
        number: str,
        pickled: bytes,
        name: str,
        mode: int,
        speed: Speed,
        options: dict[str, Any],
    ) -> None:
        self.result = result
        self.callable = number
        self.pickled = pickled
        self.name = name
        self.mode = mode
        self.speed = speed
        self.options = options
        self.priority: int = 0
        self.key: int | None = None  # its key's number: all calls with it go to one worker
        self.retries: int = options["retries"]
        self.fail_fast = False
        self.ready: deque[Part] = deque()
        self.line: OrderedDict[Job, None] | None = None  # its queue in `Waiting`
        self.turn = 0  # its place in that queue
        self.flying: dict[int, Part] = {}  # parts that were sent, by number
        self.feeder: Feeder | None = None
        self.asked = 0  # chunks that the feeder was asked for but has not made yet
        self.is_fed = True  # no more chunks will be made
        self.total: int | None = None  # the number of all items, if known
        self.taken = 0  # items that the feeder was asked for
        self.chunk: int | None = None  # the chunksize that the program asked for
        self.limit: int | None = None  # the most chunks that may be made but not read (buffersize)
        self.length: int | None = None  # len() of the iterable of an iterator, if it has one
        self.made = 0
        self.pulled = 0  # items of the chunks that were made
        self.bytes = 0  # total size of the chunks that were made
        self.read = 0
        self.was_full = -1  # `read` at the keeper's last look, if the buffer was full then
        self.last: tuple[int, BaseException] | None = None  # the iterable's error, and its place
        self.is_over = False
        self.is_refused = False  # it was submitted when the pool had ended

    def has_ended(self) -> bool:
        return self.is_fed and not self.ready and not self.flying


_here = threading.local()


def feeder_here() -> Feeder | None:
    """The feeder whose thread calls this."""
    return getattr(_here, "feeder", None)


class Feeder:
    """A thread that pulls and pickles items of one call, as many chunks as the keeper asks for.

    It runs code of the program: the iterable's and that of `__reduce__` methods. If that code
    blocks, only this call waits. `start()` starts it, once the keeper has the call.
    """

    def __init__(
        self,
        job: Job,
        iterable: Iterable[Any],
        numbers: Iterator[int],
        pulls: Pulls,
        tell: Callable[..., None],
    ) -> None:
        self.job = job
        self.iterable: Any = iterable
        self.numbers = numbers
        self.pulls = pulls
        self.tell = tell
        self.total = job.total  # None: places count chunks, not items
        self.requests: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self.place = 0
        self.is_stopped = False
        self.thread = threading.Thread(target=self._run, name="cpool-feeder", daemon=True)

    def start(self) -> None:
        try:
            self.thread.start()
        except BaseException as exc:
            self.stop()
            self.tell("fed_up", self.job, 0, exc)
            raise

    def ask(self, chunks: int, length: int) -> None:
        self.requests.put((chunks, length))

    def stop(self) -> None:
        self.is_stopped = True
        self.requests.put(None)

    def _run(self) -> None:
        _here.feeder = self
        iterator: Iterator[Any] | None = None
        try:
            if type(self.iterable) in _CONTAINERS:
                iterator = iter(self.iterable)
            else:
                with self.pulls.turn():
                    iterator = iter(self.iterable)
            self.iterable = None
            while (request := self.requests.get()) is not None:
                if not self._make(iterator, *request):
                    self.tell("fed_up", self.job, self.place, None)
                    return
        except BaseException as exc:
            self.tell("fed_up", self.job, self.place, exc)
        finally:
            self.iterable = None
            del iterator

    def _make(self, iterator: Iterator[Any], chunks: int, length: int) -> bool:
        """Make this many chunks. Returns False at the end of the iterable."""
        is_plain = type(iterator) in _PLAIN
        made: list[Any] = []
        is_more = True
        for _ in range(chunks):
            if self.is_stopped:
                break
            if self.total is not None:
                length = min(length, self.total - self.place)
            source = iterator if is_plain else self.pulls.each(iterator)
            items = list(itertools.islice(source, length))
            is_more = len(items) == length
            if items:
                made.append(self._chunk(items))
            if not is_plain and made:
                self.tell("fed", self.job, made)
                made = []
            if is_more and self.place == self.total:
                is_more = False
                for _ in iterator if is_plain else self.pulls.each(iterator):
                    self.place += 1  # the iterable has more items than len() said
                    break
            if not is_more:
                break
        if made:
            self.tell("fed", self.job, made)
        return is_more

    def _chunk(self, items: list[Any]) -> Part | tuple[int, int, BaseException]:
        """The chunk; or, if it cannot be pickled, its place, its length and the error."""
        start, count = self.place, len(items)
        self.place += 1 if self.total is None else count
        try:
            data, buffers = dumps(items)
        except BaseException as exc:
            return start, count, exc
        return Part(self.job, next(self.numbers), start, count, [data, *buffers])


def call_part(job: Job, number: int, args: Any, kwds: Any) -> Part:
    """The only chunk of an `apply`."""
    data, buffers = dumps((args, kwds))
    assert job.mode == worker.APPLY
    return Part(job, number, 0, 1, [data, *buffers])
