"""Fixtures of the tests of ThreadPool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engine import pool_module


@pytest.fixture
def crew(make_pool: Callable[..., Any], request: pytest.FixtureRequest) -> Iterator[Any]:
    """A pool of two threads."""
    yield make_pool(2, cls=pool_module.ThreadPool)
    request.node.funcargs.clear()  # the stdlib's pool keeps its descriptors while referenced
