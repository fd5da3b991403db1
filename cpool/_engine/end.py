"""How a pool ends: what terminate(), join(), the collector and the exit of the program share."""

from __future__ import annotations

import signal
from multiprocessing import util
from multiprocessing.process import BaseProcess

from .. import _core
from .thread import Thread

# terminate(): idle workers have this long to run their finalizers, busy ones to act on SIGTERM.
_GRACE_S = 0.5
LAST_GRACE_S = 0.2


def shut_down(engine: _core.Engine, workers: list[BaseProcess], threads: list[Thread]) -> None:
    """The end of a pool, by terminate(), by collection or at exit: runs once."""
    if util.is_exiting():
        _core._exiting()
    engine.end()
    try:
        if not engine.wait_ended(_GRACE_S):
            engine.signal(signal.SIGTERM)
            if not engine.wait_ended(LAST_GRACE_S):
                engine.signal(signal.SIGKILL)
                engine.wait_ended(None)
        clean_up(engine, workers, threads)
    except BaseException:  # Ctrl-C: no more patience, but the end all the same
        engine.signal(signal.SIGKILL)
        engine.wait_ended(None)
        clean_up(engine, workers, threads)
        raise


def shut_down_threads(engine: _core.Engine) -> None:
    """The same for a pool of threads, which cannot be ended: they go when their tasks are done."""
    if util.is_exiting():
        _core._exiting()
    engine.end()


def clean_up(engine: _core.Engine, workers: list[BaseProcess], threads: list[Thread]) -> None:
    """All workers have ended: take in what they left."""
    engine.stop_standby()
    for thread in list(threads):
        if not thread.is_current():
            # It may sit in the user's iterable or callback for ever: it is left behind.
            thread.join(LAST_GRACE_S)
    engine.close_fds()
    for process in list(workers):
        if process._popen is not None:  # type: ignore[attr-defined]
            process.join()
            process._popen.close()  # type: ignore[attr-defined]
