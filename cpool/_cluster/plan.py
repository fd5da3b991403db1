"""How many items are sent together. Only arithmetic, which a simulation in `benchmarks/` uses
too."""

from __future__ import annotations

import math
from collections import OrderedDict

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["AHEAD", "Speed", "chunk_length", "in_piece", "piece_seconds", "room", "share"]

# Seconds of work for the node in a piece, if the scheduler has the time for such short pieces.
PIECE = 0.1

# Seconds of the scheduler's CPU time for a piece, measured by `python -m benchmarks.cluster
# --scheduler` on a slow core; and the fraction of its time that pieces may take.
MESSAGE = 0.005
LOAD = 0.6

# Seconds of a node's own CPU time for a piece, measured as above; and the fraction of its workers'
# time that this may take, where the node has no processor to spare.
OWN = 0.008
SHARE = 0.03

# Pieces that a node has: one that runs, one that waits.
AHEAD = 2

# A piece is cut into this many chunks for each worker of its node, so that workers end together.
CHUNKS_PER_WORKER = 4

# Chunks (of one item) for each worker in the first piece of a call, before items were measured.
FIRST = 2

# The longest round trip, in seconds, for which a node gets more work in advance.
LATEST = 1.0

# The most chunks that a node has.
MOST = 4096

# The most unmeasured chunks on all nodes together: more would keep the scheduler from later pieces.
FIRST_IN_ALL = 64

# The shortest piece at the end of a call, as a fraction of a piece.
LEAST = 0.25

# The shortest chunk, in seconds: passing it on within its node takes some milliseconds.
SHORTEST = 0.005


class Speed:
    """The measured seconds of an item of one function: a moving average, None at first."""

    __slots__ = ("fresh", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        # Calls of the function that wait while its time is not known; see `waiting`.
        self.fresh: OrderedDict[Any, None] = OrderedDict()

    def add(self, seconds: float, items: int) -> None:
        """Record that `items` items took one worker `seconds` seconds."""
        each = seconds / items
        weight = min(0.5, items / 16 + 0.1)
        known = self.seconds
        self.seconds = each if known is None else known + (each - known) * weight


def piece_seconds(nodes: int, workers: int) -> float:
    """Seconds that a piece should keep a node of so many workers busy.

    More if many nodes share the scheduler, or if the node is small.
    """
    return max(PIECE, nodes * MESSAGE / LOAD, OWN / SHARE / workers)


def share(items: int, workers: int, all_workers: int, pieces: int = 2) -> int:
    """The most of the remaining items that a node's next piece may take.

    That is half of the node's share: pieces get shorter towards the end of a call, so that all
    nodes end at the same time.
    """
    return max(1, math.ceil(items * workers / (all_workers * pieces)))


def chunk_length(speed: Speed, items: int, workers: int, all_workers: int, nodes: int) -> int:
    """The number of items in each chunk of the next piece for a node, if `items` are left."""
    if speed.seconds is None:
        return 1
    each = max(speed.seconds, 1e-8)
    wanted = piece_seconds(nodes, workers) * workers / each
    part = max(min(wanted, share(items, workers, all_workers)), wanted * LEAST)
    length = part / (workers * CHUNKS_PER_WORKER)
    return max(1, int(min(max(length, SHORTEST / each), math.ceil(items / all_workers))))


def in_piece(speed: Speed, length: int, workers: int, nodes: int) -> int:
    """How many chunks of this length make a piece for a node; 0 if that is not known yet."""
    if speed.seconds is None:
        return 0
    seconds = max(speed.seconds, 1e-8) * length
    return min(MOST, math.ceil(piece_seconds(nodes, workers) * workers / seconds))


def room(
    speed: Speed,
    length: int,
    outstanding: float,
    count: int,
    workers: int,
    nodes: int,
    latency: float = 0.0,
) -> int:
    """How many more chunks of this length a node should get.

    The node has `count` chunks, which would take one worker `outstanding` seconds; the round trip
    of a piece takes `latency` seconds. No chunks while the node has more than a piece of work:
    sending chunks one by one, as results arrive, would cost a message for each.
    """
    # Of long chunks: one for each worker, and some that wait.
    least = workers + max(1, workers // 2)
    if speed.seconds is None:
        return max(0, workers * FIRST - count)
    seconds = max(speed.seconds, 1e-8) * length
    piece = piece_seconds(nodes, workers) * workers
    ahead = outstanding - min(latency, LATEST) * workers
    wanted = math.ceil((AHEAD * piece - ahead) / seconds) if ahead <= piece else 0
    wanted = max(wanted, least - count)
    return max(0, min(wanted, MOST - count))
