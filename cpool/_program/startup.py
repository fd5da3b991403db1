"""Imported by a new interpreter before its program: `cpool.pth` does so if CPOOL_INSTALL is set.

CPOOL_INSTALL=1 is inherited, so that every Python process below has cpool installed.
CPOOL_INSTALL=once concerns this process alone: `python -m cpool` sets that. With
CPOOL_EXECUTORS=1 the executors of concurrent.futures are cpool's too; with CPOOL_STATS=1 the
statistics of all pools are printed at the end. CPOOL_TRACE is the path of a file to which a
timeline is written at the end; it concerns this process alone.
"""

from __future__ import annotations

import os

from .report import print_statistics_at_exit, trace_until_exit
from .swap import install

_executors = os.environ.get("CPOOL_EXECUTORS", "0") not in ("", "0")
_stats = os.environ.get("CPOOL_STATS", "0") not in ("", "0")
_trace = os.environ.pop("CPOOL_TRACE", "")
if os.environ["CPOOL_INSTALL"] == "once":
    del os.environ["CPOOL_INSTALL"]
    os.environ.pop("CPOOL_EXECUTORS", None)
    os.environ.pop("CPOOL_STATS", None)
install(executors=_executors)
if _stats:
    print_statistics_at_exit()
if _trace:
    trace_until_exit(_trace)
