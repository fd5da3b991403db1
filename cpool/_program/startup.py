"""Imported by a new interpreter before its program: `cpool.pth` does so if CPOOL_INSTALL is set.

CPOOL_INSTALL=1 is inherited, so that every Python process below has cpool installed.
CPOOL_INSTALL=once concerns this process alone: `python -m cpool` sets that.
"""

from __future__ import annotations

import os

from .swap import install

if os.environ["CPOOL_INSTALL"] == "once":
    del os.environ["CPOOL_INSTALL"]
install()
