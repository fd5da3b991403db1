"""The calls of a pool that have chunks to send: by priority, and in turns.

Each operation takes constant time, however many calls wait. Knows calls only, no nodes or messages.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterator

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from .jobs import Job
    from .plan import Speed

__all__ = ["Keyed", "Level", "Waiting"]

# The most calls of one key on their node: one that runs, one that waits.
_MOST_OF_KEY = 2


class Level:
    """The calls of one priority, in three queues. A full node takes no call of a whole queue."""

    def __init__(self) -> None:
        self.measured: OrderedDict[Job, None] = OrderedDict()  # the function's time is known
        self.fresh: OrderedDict[Job, None] = OrderedDict()  # it is not known
        self.keyed: OrderedDict[Job, None] = OrderedDict()  # calls with a key; they take no room
        self.closed: list[OrderedDict[Job, None]] = []  # queues that `in_turn` skips from now on

    def line_of(self, job: Job) -> OrderedDict[Job, None]:
        """The queue for a new call."""
        if job.key is not None:
            return self.keyed
        return self.fresh if job.speed.seconds is None else self.measured

    def in_turn(self) -> Iterator[Job]:
        """The waiting calls in the order of their turns. The queues must not change meanwhile.

        Skips the calls of queues that are in `closed`.
        """
        self.closed = []
        lines = [self.measured, self.fresh, self.keyed]
        iterators = [iter(line) for line in lines]
        heads = [next(each, None) for each in iterators]
        while True:
            first = -1
            for place, job in enumerate(heads):
                if job is None or any(lines[place] is line for line in self.closed):
                    continue
                if first < 0 or job.turn < heads[first].turn:  # type: ignore[union-attr]
                    first = place
            if first < 0:
                return
            found = heads[first]
            heads[first] = next(iterators[first], None)
            assert found is not None
            yield found

    def is_empty(self) -> bool:
        return not (self.measured or self.fresh or self.keyed)


class Waiting:
    """All calls that have chunks ready."""

    def __init__(self) -> None:
        self.levels: dict[int, Level] = {}
        self.turns = itertools.count()

    def add(self, job: Job) -> None:
        """Add a call that has chunks. A call that waits already keeps its turn."""
        if job.line is None:
            self._append(self.levels.setdefault(job.priority, Level()), job)

    def remove(self, job: Job) -> None:
        """Remove a call that has no more chunks or has ended."""
        if job.line is not None:
            self._take_out(job)
            if self.levels[job.priority].is_empty():
                del self.levels[job.priority]

    def again(self, job: Job) -> None:
        """A call had its turn: move it behind the others if it has chunks left, or remove it."""
        if not job.ready:
            self.remove(job)
        elif job.line is not None:
            self._take_out(job)
            self._append(self.levels[job.priority], job)

    def _append(self, level: Level, job: Job) -> None:
        job.turn = next(self.turns)
        job.line = level.line_of(job)
        job.line[job] = None
        if job.line is level.fresh:
            job.speed.fresh[job] = None

    def _take_out(self, job: Job) -> None:
        assert job.line is not None
        del job.line[job]
        job.line = None
        job.speed.fresh.pop(job, None)

    def measured(self, speed: Speed) -> None:
        """The time of a function is known now: move its calls to the other queue."""
        for job in list(speed.fresh):
            self.again(job)

    def by_priority(self) -> list[Level]:
        return [self.levels[each] for each in sorted(self.levels, reverse=True)]


class Keyed:
    """Calls with keys: passes a few of each key on to `Waiting`, and holds the others back."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.counts: Counter[int] = Counter()  # calls of each key in `Waiting` or on their node
        self.behind: dict[int, list[tuple[int, int, Job]]] = {}
        self.order = itertools.count()

    def add(self, job: Job) -> None:
        """Add a call, whose chunk is ready."""
        assert job.key is not None
        line = self.behind.setdefault(job.key, [])
        heapq.heappush(line, (-job.priority, next(self.order), job))
        self.fill(job.key)

    def remove(self, job: Job) -> None:
        """Remove a call that has ended."""
        if job.line is not None:
            self.waiting.remove(job)
            self.leave(job)

    def leave(self, job: Job) -> None:
        """A call has left its node or `Waiting`: pass on the next one of its key."""
        assert job.key is not None
        self.counts[job.key] -= 1
        if not self.counts[job.key]:
            del self.counts[job.key]
        self.fill(job.key)

    def fill(self, key: int) -> None:
        line = self.behind.get(key)
        while line and self.counts[key] < _MOST_OF_KEY:
            _, _, job = heapq.heappop(line)
            if job.ready:  # it has not ended in the meantime
                self.counts[key] += 1
                self.waiting.add(job)
        if not line:
            self.behind.pop(key, None)
