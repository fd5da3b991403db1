"""The pool under test: cpool's or, with CPOOL_TEST_ENGINE=stdlib, the stdlib's.

Every test without the marker `better` describes what both pools do, so that the suite can be
checked against multiprocessing.pool itself. Programs that tests run in a fresh interpreter import
their pool from here as well.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os

# Each import costs time in every program of the tests, and in every spawned worker.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STDLIB = os.environ.get("CPOOL_TEST_ENGINE") == "stdlib"

# The build without Linux's own calls, made by `make test-portable`. There a thread in the worker
# ends a busy worker whose parent is gone; elsewhere the kernel does.
PORTABLE = os.environ.get("CPOOL_TEST_PORTABLE") == "1"
WORKER_THREADS = 2 if PORTABLE else 1

# Slow builds leave out what starts an interpreter afresh, in tests that are about something else.
START_METHODS = os.environ.get("CPOOL_TEST_START_METHODS", "fork spawn forkserver").split()

# Seconds after which a wait in a test fails. The whole test has twice as long. Slow builds raise
# the deadline.
DEADLINE = float(os.environ.get("CPOOL_TEST_DEADLINE", "10"))

pool_module: Any
if STDLIB:
    # cpool forks by default, on 3.14 and later too.
    if multiprocessing.get_all_start_methods()[0] != "fork" and (
        multiprocessing.get_start_method(allow_none=True) is None
    ):
        multiprocessing.set_start_method("fork")
    pool_module = importlib.import_module("multiprocessing.pool")
    errors: Any = None
else:
    pool_module = importlib.import_module("cpool.pool")
    errors = importlib.import_module("cpool")

Pool: Any = pool_module.Pool
AsyncResult: Any = pool_module.AsyncResult
RemoteTraceback: Any = pool_module.RemoteTraceback
MaybeEncodingError: Any = pool_module.MaybeEncodingError
