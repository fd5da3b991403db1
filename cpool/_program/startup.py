"""`cpool.pth` imports this before the program of a new interpreter, if CPOOL_INSTALL is set.

CPOOL_INSTALL=1 is inherited: every Python process that this one starts installs cpool too.
CPOOL_INSTALL=once applies to this process only; `python -m cpool` sets it. CPOOL_EXECUTORS=1
replaces the executors of concurrent.futures as well. CPOOL_STATS=1 prints the statistics of all
pools at the end. CPOOL_TRACE is the path of a file for a timeline, which is written at the end; it
applies to this process only.
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
