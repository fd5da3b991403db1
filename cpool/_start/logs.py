"""`forward_logs=True` in a worker: sends log records to the parent, whose handlers handle them.

A record is sent as plain values in datagrams over one socket that all workers share. So records
arrive complete, those of one worker arrive in order, and a worker that dies loses none that it has
sent.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import select
import socket
import struct
from itertools import count

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    # The level that logging.disable() has set; and for each logger, by its name ("": the root), its
    # level, whether it propagates, and whether it is disabled.
    Levels = tuple[int, dict[str, tuple[int, bool, bool]]]

# Before each part of a record: the pool's token, the pid, the number of the record in its process,
# the number of the part, and how many parts there are.
HEADER = struct.Struct("=16sIQII")
_PART = 60_000  # bytes of a record in a datagram
_LOOK_S = 0.2  # while the socket is full: time between checks that the parent is alive

_PLAIN = (str, int, float, bool, type(None), bytes, complex)
_DEEPEST = 20  # levels of nested containers in an attribute


def levels() -> Levels:
    """The current levels of the loggers of this process."""
    found = {"": (logging.root.level, False, logging.root.disabled)}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            found[name] = logger.level, logger.propagate, logger.disabled
    return logging.root.manager.disable, found


class _Process:
    """Identifies this process: by its pid and its start time, since pids are reused."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._started = self._stat()[1]

    def _stat(self) -> tuple[bytes, bytes]:
        """The state and the start time of the process that has the pid; empty: unknown."""
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            return fields[0], fields[19]
        except (OSError, IndexError):
            return b"", b""

    def is_alive(self) -> bool:
        """Does the process still run? May be called in any process."""
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it exists
        state, started = self._stat()
        return state not in (b"Z", b"X") and started in (self._started, b"")


class Forwarding:
    """What a worker needs to forward its records: the socket, and the parent's levels.

    `here` is the parent's end of the socket, which a forked worker inherits.
    """

    def __init__(self, there: socket.socket, here: socket.socket | None, token: bytes) -> None:
        self._there = there
        self._here = here
        self._token = token
        self._levels = levels()
        self._parent = _Process()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_here": None}

    def install(self) -> None:
        """In the worker, before its initializer: send records instead of handling them."""
        if self._here is not None:
            self._here.close()
        self._there.setblocking(False)
        handler = _Forwarder(self._there, self._token, self._parent)
        logging.root.manager.disable, found = self._levels
        for name, (level, propagates, disabled) in found.items():
            logger = logging.getLogger(name)
            logger.handlers[:] = []  # inherited by fork, or set by the main module
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagates, disabled
            if not propagates:
                logger.addHandler(handler)


class _Forwarder(logging.Handler):
    def __init__(self, there: socket.socket, token: bytes, parent: _Process) -> None:
        super().__init__()
        self._there = there
        self._token = token
        self._parent = parent
        self._is_alone = False  # the parent is gone
        self._numbers = count()
        self._format_exception = logging.Formatter().formatException

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_alone:
            return
        try:
            self._send(marshal.dumps(self._plain(record)))
        except Exception:
            self.handleError(record)

    def _plain(self, record: logging.LogRecord) -> dict[str, Any]:
        """The record's attributes, with its message complete and its exception as text."""
        found = {name: _plain_value(value, 0) for name, value in record.__dict__.items()}
        if record.exc_info and not record.exc_text:
            found["exc_text"] = self._format_exception(record.exc_info)
        found.update(msg=str(record.getMessage()), args=None, exc_info=None)
        return found

    def _send(self, data: bytes) -> None:
        number, pid = next(self._numbers), os.getpid()
        parts = range(0, len(data), _PART)
        for i, start in enumerate(parts):
            head = HEADER.pack(self._token, pid, number, i, len(parts))
            self._send_part(head + data[start : start + _PART])

    def _send_part(self, data: bytes) -> None:
        """Send it once the socket has room; give up if the parent has died.

        The socket reports no error while another process, such as a fork of the parent, still has
        the reading end open.
        """
        while not self._is_alone:
            with contextlib.suppress(BlockingIOError):
                self._there.send(data)
                return
            poll = select.poll()
            poll.register(self._there, select.POLLOUT)
            self._is_alone = not poll.poll(_LOOK_S * 1000) and not self._parent.is_alive()


def _plain_value(value: Any, depth: int) -> Any:
    """The value, converted to plain types; a part of any other type becomes its repr()."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if depth < _DEEPEST:
        if kind in (list, tuple, set, frozenset):
            return kind(_plain_value(item, depth + 1) for item in value)
        if kind is dict:
            return {
                _plain_value(key, depth + 1): _plain_value(item, depth + 1)
                for key, item in value.items()
            }
    try:
        return repr(value)
    except Exception as exc:
        return f"<{kind.__name__}, whose repr() raised {type(exc).__name__}>"
