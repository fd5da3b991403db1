"""How many items travel together. Arithmetic only; the simulation in `benchmarks/` uses it too."""

from __future__ import annotations

import math
from collections import OrderedDict

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["AHEAD", "Speed", "chunk_length", "in_piece", "piece_seconds", "room", "share"]

# Seconds of a node's work in a piece, where the scheduler has time for that.
PIECE = 0.1

# Seconds of the scheduler's CPU time for a piece, as `python -m benchmarks.cluster --scheduler`
# measures them on a slow core, and the part of its time that pieces may take.
MESSAGE = 0.005
LOAD = 0.6

# Pieces that a node holds: one that runs, one that waits.
AHEAD = 2

# A piece is cut into this many chunks for each worker of its node, so that workers end together.
CHUNKS_PER_WORKER = 4

# Chunks of one item for each worker, in the first piece of a call whose items were not measured.
FIRST = 2

# A way of more seconds is not made up for by more work ahead.
LATEST = 1.0

# A node has no more chunks than this.
MOST = 4096

# In all so many, if there are many nodes: their pieces would keep the scheduler from later ones.
FIRST_IN_ALL = 64

# Pieces at the end of a call are no shorter than this part of a piece.
LEAST = 0.25

# A chunk takes at least so long: to hand it over within its node takes the node some milliseconds.
SHORTEST = 0.005


class Speed:
    """The measured seconds of an item of one function: a mean that forgets, None at first."""

    __slots__ = ("fresh", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        # Calls of the function that wait as long as its time is not known; see `waiting`.
        self.fresh: OrderedDict[Any, None] = OrderedDict()

    def add(self, seconds: float, items: int) -> None:
        """Take in that so many items took so many seconds of one worker."""
        each = seconds / items
        weight = min(0.5, items / 16 + 0.1)
        known = self.seconds
        self.seconds = each if known is None else known + (each - known) * weight


def piece_seconds(nodes: int) -> float:
    """How long a piece should keep its node busy: longer the more nodes share the scheduler."""
    return max(PIECE, nodes * MESSAGE / LOAD)


def share(items: int, workers: int, all_workers: int, pieces: int = 2) -> int:
    """The most items that a node's next piece may take of those left.

    Half of the node's share: pieces become shorter towards the end of a call, and all nodes end
    together.
    """
    return max(1, math.ceil(items * workers / (all_workers * pieces)))


def chunk_length(speed: Speed, items: int, workers: int, all_workers: int, nodes: int) -> int:
    """The number of items in each chunk of the next piece for a node, of the items left."""
    if speed.seconds is None:
        return 1
    each = max(speed.seconds, 1e-8)
    wanted = piece_seconds(nodes) * workers / each
    part = max(min(wanted, share(items, workers, all_workers)), wanted * LEAST)
    length = part / (workers * CHUNKS_PER_WORKER)
    return max(1, int(min(max(length, SHORTEST / each), math.ceil(items / all_workers))))


def in_piece(speed: Speed, length: int, workers: int, nodes: int) -> int:
    """How many chunks of this length are a piece for a node, where that is known; 0 elsewhere."""
    if speed.seconds is None:
        return 0
    seconds = max(speed.seconds, 1e-8) * length
    return min(MOST, math.ceil(piece_seconds(nodes) * workers / seconds))


def room(
    speed: Speed,
    length: int,
    outstanding: float,
    count: int,
    workers: int,
    nodes: int,
    latency: float = 0.0,
) -> int:
    """How many chunks of this length a node can take.

    It has `count` chunks, of `outstanding` seconds of one worker in all; a piece is `latency`
    seconds on its way. None while it has more than a piece: chunks that trickled in one by one, as
    results do, would each cost a message.
    """
    least = workers + max(1, workers // 2)  # of long chunks: each worker has one, and some wait
    if speed.seconds is None:
        return max(0, workers * FIRST - count)
    seconds = max(speed.seconds, 1e-8) * length
    piece = piece_seconds(nodes) * workers
    ahead = outstanding - min(latency, LATEST) * workers
    wanted = math.ceil((AHEAD * piece - ahead) / seconds) if ahead <= piece else 0
    wanted = max(wanted, least - count)
    return max(0, min(wanted, MOST - count))
