"""The calls of a pool that have chunks to hand out: by priority, and in turn.

Each step costs the same however many calls wait. Arithmetic on calls alone; no node, no message.
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

# Calls of one key that are on their node: one that runs, one that waits.
_MOST_OF_KEY = 2


class Level:
    """Calls of one priority. A node that is full takes none of a whole line."""

    def __init__(self) -> None:
        self.measured: OrderedDict[Job, None] = OrderedDict()  # of functions whose time is known
        self.fresh: OrderedDict[Job, None] = OrderedDict()  # of others
        self.keyed: OrderedDict[Job, None] = OrderedDict()  # for one worker; they take no room
        self.closed: list[
            OrderedDict[Job, None]
        ] = []  # lines that `in_turn` leaves out from now on

    def line_of(self, job: Job) -> OrderedDict[Job, None]:
        """Where a call stands that comes now."""
        if job.key is not None:
            return self.keyed
        return self.fresh if job.speed.seconds is None else self.measured

    def in_turn(self) -> Iterator[Job]:
        """The calls that wait, the one first whose turn it is. None may come or go meanwhile.

        Those of a line that is put into `closed` are left out.
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
        """A call has chunks; where it waits already it keeps its turn."""
        if job.line is None:
            self._append(self.levels.setdefault(job.priority, Level()), job)

    def remove(self, job: Job) -> None:
        """A call has no chunks any more, or has ended."""
        if job.line is not None:
            self._take_out(job)
            if self.levels[job.priority].is_empty():
                del self.levels[job.priority]

    def again(self, job: Job) -> None:
        """It had its turn: others come first, if it has chunks left."""
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
        """The time of a function is known now: its calls take room as such."""
        for job in list(speed.fresh):
            self.again(job)

    def by_priority(self) -> list[Level]:
        return [self.levels[each] for each in sorted(self.levels, reverse=True)]


class Keyed:
    """Calls of keys: a few of each key wait for their node, the others behind them."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.counts: Counter[int] = Counter()  # calls of each key that wait first, or are there
        self.behind: dict[int, list[tuple[int, int, Job]]] = {}
        self.order = itertools.count()

    def add(self, job: Job) -> None:
        """A call has its chunk."""
        assert job.key is not None
        line = self.behind.setdefault(job.key, [])
        heapq.heappush(line, (-job.priority, next(self.order), job))
        self.fill(job.key)

    def remove(self, job: Job) -> None:
        """A call has ended that may wait here."""
        if job.line is not None:
            self.waiting.remove(job)
            self.leave(job)

    def leave(self, job: Job) -> None:
        """A call has left its node, or its place in front."""
        assert job.key is not None
        self.counts[job.key] -= 1
        if not self.counts[job.key]:
            del self.counts[job.key]
        self.fill(job.key)

    def fill(self, key: int) -> None:
        line = self.behind.get(key)
        while line and self.counts[key] < _MOST_OF_KEY:
            _, _, job = heapq.heappop(line)
            if job.ready:  # it has not ended meanwhile
                self.counts[key] += 1
                self.waiting.add(job)
        if not line:
            self.behind.pop(key, None)
