"""Imported by a new interpreter before its program: `cpool.pth` does so if CPOOL_INSTALL is set.

CPOOL_INSTALL=1 is inherited, so that every Python process below has cpool installed.
CPOOL_INSTALL=once concerns this process alone: `python -m cpool` sets that. With
CPOOL_EXECUTORS=1 the executors of concurrent.futures are cpool's too.
"""

from __future__ import annotations

import os

from .swap import install

_executors = os.environ.get("CPOOL_EXECUTORS", "0") not in ("", "0")
if os.environ["CPOOL_INSTALL"] == "once":
    del os.environ["CPOOL_INSTALL"]
    os.environ.pop("CPOOL_EXECUTORS", None)
install(executors=_executors)
