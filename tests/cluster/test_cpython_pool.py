"""CPython's own TestPool, unmodified, on a pool on a cluster."""

from __future__ import annotations

import importlib.util
import unittest
from collections.abc import Callable
from typing import Any

import engine
import pytest

if importlib.util.find_spec("test") is None or (
    importlib.util.find_spec("test._test_multiprocessing") is None
):
    pytest.skip("this Python was installed without CPython's tests", allow_module_level=True)

from test import _test_multiprocessing as cpython

pytestmark = pytest.mark.better

LEFT_OUT = {
    "test_resource_warning": "a pool on a cluster is not ended by its collection, and gives none",
}


class ClusterPool(cpython._TestPool, unittest.TestCase):  # type: ignore[name-defined, misc]
    """Its pools have one node with the given number of workers."""

    TYPE = "processes"
    __test__ = False  # run by test_of_cpython() alone

    make: Callable[..., Any]
    pool: Any = None

    @classmethod
    def setUpClass(cls) -> None:
        pass

    @classmethod
    def Pool(cls, *args: Any, **kwds: Any) -> Any:
        return cls.make(*args, **kwds)


NAMES = unittest.defaultTestLoader.getTestCaseNames(ClusterPool)


@pytest.mark.timeout(6 * engine.DEADLINE)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEFT_OUT])
def test_of_cpython(name: str, pool: Any, make_pool: Any) -> None:
    ClusterPool.pool, ClusterPool.make = pool, make_pool
    outcome = unittest.TestResult()
    ClusterPool(name).run(outcome)
    assert outcome.testsRun == 1
    assert not outcome.skipped
    assert outcome.wasSuccessful(), "\n".join(
        text for _, text in [*outcome.errors, *outcome.failures]
    )
