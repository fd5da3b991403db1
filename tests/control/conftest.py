"""What the tests of this folder share."""

from __future__ import annotations

from typing import Any

import engine
import pytest

POOLS = [engine.pool_module.Pool, engine.pool_module.ThreadPool]


@pytest.fixture(params=POOLS, ids=["processes", "threads"])
def either(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    """A pool of two workers: once of processes, once of threads."""
    return make_pool(2, cls=request.param)
