"""Large data between a node and its worker processes: memory that both map.

The memory is a file without a name (Linux's memfd), which the worker process opens by way of /proc.
It is gone when the processes are. Where there is none, data goes through the pipes of the node's
pool.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence

from .._base.stdlib import TYPE_CHECKING
from .frames import size_of

if TYPE_CHECKING:
    from typing import Any

__all__ = ["BIG", "Memory", "fetch", "store"]

# Bytes of this length or more are put into shared memory.
BIG = 1 << 20

_PAGE = 4096


def store(fd: int, parts: Sequence[Any]) -> list[Any]:
    """Append the large parts to the memory; in their places stand (offset, length)."""
    end = os.fstat(fd).st_size
    kept: list[Any] = []
    for part in parts:
        length = size_of(part)
        if length < BIG:
            kept.append(part)
            continue
        begin = -(-end // _PAGE) * _PAGE
        end = begin + length
        kept.append((begin, length))
        with memoryview(part) as view, view.cast("B") as left:
            while begin < end:
                begin += os.pwrite(fd, left[length - (end - begin) :], begin)
    return kept


def fetch(fd: int, parts: Sequence[Any]) -> list[Any]:
    """The parts that `store` was given; the large ones as views of a private mapping."""
    if not any(type(part) is tuple for part in parts):
        return list(parts)
    view = memoryview(mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    return [view[part[0] : part[0] + part[1]] if type(part) is tuple else part for part in parts]


class Memory:
    """Memory of one chunk, in the node."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("cpool", os.MFD_CLOEXEC)

    @classmethod
    def make(cls) -> Memory | None:
        """None where there is no such memory: on another system, or without /proc."""
        if not hasattr(os, "memfd_create") or not os.path.exists("/proc/self/fd"):
            return None
        with contextlib.suppress(OSError):
            return cls()
        return None

    @property
    def path(self) -> str:
        """What the worker process opens."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """Give the memory up; what is mapped stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
