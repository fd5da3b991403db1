"""`python -m cpool --stats` and `--trace`: write statistics and a timeline at the program's end."""

from __future__ import annotations

import atexit
import sys

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# For each pool: its engine, which has the counters, and whether its workers are threads.
_engines: list[tuple[Any, bool]] = []


def _note(pool: Any) -> None:
    _engines.append((pool._engine, pool._has_threads))


def print_statistics_at_exit() -> None:
    """Print the statistics of all pools of this process to stderr when it exits."""
    from .._engine import known

    known.watch(_note)
    atexit.register(_print)


def _print() -> None:
    from .._engine.statistics import statistics_of

    for engine, threads in _engines:
        if engine.is_ours and sys.stderr is not None:
            print(f"cpool: {statistics_of(engine, threads)}", file=sys.stderr)


def trace_until_exit(path: str) -> None:
    """Trace all pools of this process until it exits. `SystemExit` if the file cannot be opened."""
    from .._engine.trace import trace

    running = trace(path)
    try:
        running.start()
    except OSError as exc:
        raise SystemExit(f"cpool: cannot write the trace: {exc}") from None
    atexit.register(running.stop)
