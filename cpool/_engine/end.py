"""The end of a pool, by terminate(), join(), collection or the program's exit."""

from __future__ import annotations

import signal
from multiprocessing import util
from multiprocessing.process import BaseProcess

from .. import _core
from .thread import Thread

# terminate(): seconds for idle workers to run finalizers, then for busy ones to act on SIGTERM.
_GRACE_S = 0.5
LAST_GRACE_S = 0.2


def shut_down(engine: _core.Engine, workers: list[BaseProcess], threads: list[Thread]) -> None:
    """End the pool and all of its processes. Runs once."""
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
    except BaseException:  # Ctrl-C: end at once
        engine.signal(signal.SIGKILL)
        engine.wait_ended(None)
        clean_up(engine, workers, threads)
        raise


def shut_down_threads(engine: _core.Engine) -> None:
    """End a pool of threads, which exit after their current tasks."""
    if util.is_exiting():
        _core._exiting()
    engine.end()


def clean_up(engine: _core.Engine, workers: list[BaseProcess], threads: list[Thread]) -> None:
    """Join the processes and threads of a pool whose workers have ended."""
    engine.stop_standby()
    for thread in list(threads):
        if not thread.is_current():
            # A thread may block in the user's iterable or callback for ever; abandon it then.
            thread.join(LAST_GRACE_S)
    engine.close_fds()
    for process in list(workers):
        if process._popen is not None:  # type: ignore[attr-defined]
            process.join()
            process._popen.close()  # type: ignore[attr-defined]
