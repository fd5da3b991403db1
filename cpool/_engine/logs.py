"""`forward_logs=True` in the parent: passes the workers' log records to this process's handlers."""

from __future__ import annotations

import contextlib
import errno
import logging
import marshal
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable

from .._base import failures
from .._base.stdlib import TYPE_CHECKING
from .._start.logs import HEADER, Forwarding

if TYPE_CHECKING:
    from typing import Any

_MOST = 200_000  # bytes to receive at once: more than any datagram has
_ROOM = 1 << 20  # bytes that the socket may buffer; the kernel may allow less
_RETRY_S = 0.02
_LAST_GRACE_S = 5.0


class LogReceiver:
    """Receives and handles the records of a pool's workers, on two threads.

    One thread only receives, so that no worker waits for a handler; the other calls the handlers.
    """

    def __init__(self, runs_filters: bool) -> None:
        """`runs_filters`: run loggers' filters here, since workers that are not forked lack
        them."""
        self._here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self._here, self._there):
            end.setblocking(True)  # a program may have set another default
        self._there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        self._token = os.urandom(16)
        self._runs_filters = runs_filters
        self._received: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads: set[int] = set()
        self._is_started = False
        self._ends = False
        self._done = threading.Event()

    def for_worker(self, forks: bool) -> Forwarding:
        """The sending side, for a worker that is made now."""
        return Forwarding(self._there, self._here if forks else None, self._token)

    def start(self, start_thread: Callable[..., object]) -> None:
        """Start the threads with `start_thread(name, target)`."""
        start_thread("cpool-log-handlers", self._handle_all)
        start_thread("cpool-logs", self._receive)
        self._is_started = True

    # ---- receiving ----

    def _receive(self) -> None:
        self._threads.add(threading.get_ident())
        parts: dict[tuple[int, int], list[bytes]] = {}
        while True:
            try:
                data = self._here.recv(_MOST, socket.MSG_DONTWAIT if self._ends else 0)
                self._take(data, parts)
            except BlockingIOError:  # the workers have ended, and all is received
                break
            except (MemoryError, OSError) as exc:
                if isinstance(exc, OSError) and exc.errno in (errno.EBADF, errno.ENOTSOCK):
                    break  # the program has closed the descriptor
                time.sleep(_RETRY_S)  # workers wait while nobody reads, so this thread goes on
        self._here.close()
        self._received.put(None)

    def _take(self, data: bytes, parts: dict[tuple[int, int], list[bytes]]) -> None:
        """Collect one part of a record; ignore anything else that a task wrote to the socket."""
        if not data.startswith(self._token) or len(data) < HEADER.size:
            return
        _, pid, number, part, n = HEADER.unpack_from(data)
        body = data[HEADER.size :]
        if n > 1:
            if part == 0:
                parts[pid, number] = []
            so_far = parts.get((pid, number))
            if so_far is None or len(so_far) != part:
                return
            so_far.append(body)
            if part + 1 < n:
                return
            body = b"".join(parts.pop((pid, number)))
        self._received.put(body)

    # ---- handling ----

    def _handle_all(self) -> None:
        self._threads.add(threading.get_ident())
        while (data := self._received.get()) is not None:
            try:
                self._handle(marshal.loads(data))
            except BaseException as exc:  # a handler raised: go on with the next record
                _report(exc)
        self._done.set()

    def _handle(self, attributes: dict[str, Any]) -> None:
        record = logging.makeLogRecord(attributes)
        logger = logging.getLogger(None if record.name == "root" else record.name)
        if self._runs_filters:
            logger.handle(record)
        else:
            logger.callHandlers(record)

    # ---- the end ----

    def end(self) -> None:
        """After the workers have ended: wait, for a limited time, until all records are handled."""
        self._ends = True
        if not self._is_started:  # the pool could not be made
            self._there.close()
            self._here.close()
            self._received.put(None)
            return
        # Wake the receiving thread. An empty datagram alone does not end it: a task may have sent
        # one by mistake, with records behind it.
        try:
            self._there.send(b"", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # the thread has datagrams to read
        except OSError:  # the program has closed the descriptor
            with contextlib.suppress(OSError):
                self._here.shutdown(socket.SHUT_RD)  # received data can still be read
        self._there.close()
        if threading.get_ident() not in self._threads:  # a handler may end the pool
            self._done.wait(_LAST_GRACE_S)


def _report(exc: BaseException) -> None:
    with contextlib.suppress(Exception):  # stderr may be closed, or the program's own
        if sys.stderr is not None:
            text = failures.traceback_of(exc)
            sys.stderr.write(f"cpool: a handler of a worker's log record raised:\n{text}")
