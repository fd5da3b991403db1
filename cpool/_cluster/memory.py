"""Shared memory for large data between a node and its worker processes.

The memory is a file without a name (a Linux memfd), which the worker process opens through /proc.
It disappears with the processes. Where memfd is not available, data are sent through the pipes of
the node's pool.
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

# Parts of this many bytes or more are put into shared memory.
BIG = 1 << 20

_PAGE = 4096


def store(fd: int, parts: Sequence[Any]) -> list[Any]:
    """Append the large parts to the memory; return all parts, large ones as (offset, length)."""
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
    """The parts that were passed to `store`; the large ones are views of a private mapping."""
    if not any(type(part) is tuple for part in parts):
        return list(parts)
    view = memoryview(mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    return [view[part[0] : part[0] + part[1]] if type(part) is tuple else part for part in parts]


class Memory:
    """Shared memory for one chunk, on the node's side."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("cpool", os.MFD_CLOEXEC)

    @classmethod
    def make(cls) -> Memory | None:
        """None if it is not available: on a system other than Linux, or without /proc."""
        if not hasattr(os, "memfd_create") or not os.path.exists("/proc/self/fd"):
            return None
        with contextlib.suppress(OSError):
            return cls()
        return None

    @property
    def path(self) -> str:
        """The path that the worker process opens."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """Close the memory; existing mappings stay valid."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
