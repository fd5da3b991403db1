"""The drop-in replacement for multiprocessing.pool, with all names that programs import."""

from __future__ import annotations

# ruff: noqa: F401  (modules and names that importers of multiprocessing.pool find there)
import collections
import itertools
import os
import queue
import threading
import time
import traceback
import types
import warnings
from multiprocessing import TimeoutError, get_context, util
from multiprocessing.connection import wait

from ._base.stdlib import pool as _stdlib
from ._engine.processes import Pool
from ._engine.results import ApplyResult as ApplyResult
from ._engine.results import AsyncResult as AsyncResult
from ._engine.results import IMapIterator as IMapIterator
from ._engine.results import IMapUnorderedIterator as IMapUnorderedIterator
from ._engine.results import MapResult as MapResult
from ._engine.results import ValueIterator as ValueIterator
from ._engine.threads import ThreadPool

__all__ = ["Pool", "ThreadPool"]

INIT = _stdlib.INIT
RUN = _stdlib.RUN
CLOSE = _stdlib.CLOSE
TERMINATE = _stdlib.TERMINATE

# Pickles refer to these as multiprocessing.pool.X, so they must be the very same objects.
RemoteTraceback = _stdlib.RemoteTraceback
ExceptionWithTraceback = _stdlib.ExceptionWithTraceback
rebuild_exc = _stdlib.rebuild_exc
MaybeEncodingError = _stdlib.MaybeEncodingError
mapstar = _stdlib.mapstar
starmapstar = _stdlib.starmapstar
worker = _stdlib.worker
job_counter = _stdlib.job_counter
_helper_reraises_exception = _stdlib._helper_reraises_exception
_PoolCache = _stdlib._PoolCache
