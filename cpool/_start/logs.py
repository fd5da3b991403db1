"""`forward_logs=True` in a worker: what it logs goes to the parent, whose handlers handle it.

A record travels as plain values in datagrams of one socket that all workers share. So records
arrive whole, those of a worker in the order in which it logged them, and a worker that dies takes
none along.
"""

from __future__ import annotations

import logging
import marshal
import os
import socket
import struct
from itertools import count

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    # The level of all loggers together, and of each by its name ("": the root) its level, whether
    # it propagates, and whether it is disabled.
    Levels = tuple[int, dict[str, tuple[int, bool, bool]]]

# Before each part of a record: the pool's token, the pid, the number of the record in its process,
# the number of the part, and how many parts there are.
HEADER = struct.Struct("=16sIQII")
_PART = 60_000  # bytes of a record in a datagram

_PLAIN = (str, int, float, bool, type(None), bytes, complex)
_DEEPEST = 20  # levels of lists and the like in an attribute


def levels() -> Levels:
    """What the loggers of this process let through."""
    found = {"": (logging.root.level, False, logging.root.disabled)}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            found[name] = logger.level, logger.propagate, logger.disabled
    return logging.root.manager.disable, found


class Forwarding:
    """What a worker needs to forward its records: the socket, and the parent's levels.

    `here` is the parent's end, which a forked worker has as well.
    """

    def __init__(self, there: socket.socket, here: socket.socket | None, token: bytes) -> None:
        self._there = there
        self._here = here
        self._token = token
        self._levels = levels()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_here": None}

    def install(self) -> None:
        """In the worker, before its initializer: send records instead of handling them."""
        if self._here is not None:
            self._here.close()
        self._there.setblocking(True)  # a program may have set another default
        handler = _Forwarder(self._there, self._token)
        logging.root.manager.disable, found = self._levels
        for name, (level, propagates, disabled) in found.items():
            logger = logging.getLogger(name)
            logger.handlers[:] = []  # those that a fork has copied, or the main module has set
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagates, disabled
            if not propagates:
                logger.addHandler(handler)


class _Forwarder(logging.Handler):
    def __init__(self, there: socket.socket, token: bytes) -> None:
        super().__init__()
        self._there = there
        self._token = token
        self._numbers = count()
        self._format_exception = logging.Formatter().formatException

    def emit(self, record: logging.LogRecord) -> None:
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
            self._there.send(head + data[start : start + _PART])


def _plain_value(value: Any, depth: int) -> Any:
    """The value, of plain types; what is none of these is its repr()."""
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
