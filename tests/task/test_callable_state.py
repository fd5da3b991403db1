"""The state of a callable that changes while items are pulled."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from engine import DEADLINE


class Loader:
    """Says in each task how many items had been pulled when the callable was pickled."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.now = -1
        self.pickled = 0

    def __getstate__(self) -> dict[str, Any]:
        self.pickled += 1
        return {"now": self.now}

    def items(self) -> Iterator[int]:
        for number in range(self.count):
            self.now = number
            yield number

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        if number >= self.count:
            raise IndexError
        self.now = number
        return number

    def work(self, number: int) -> tuple[int, int]:
        return number, self.now


def look(loader: Loader, number: int) -> tuple[int, int]:
    return number, loader.now


def at_ends_of_chunks(count: int, size: int) -> list[tuple[int, int]]:
    return [(i, min(i // size * size + size, count) - 1) for i in range(count)]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("kind", ["method", "partial"])
def test_a_generator_changes_the_callable(
    make_pool: Any, method: str, size: int, kind: str
) -> None:
    """Each chunk has the state after the last of its items was pulled."""
    loader = Loader(10)
    function: Any = loader.work if kind == "method" else functools.partial(look, loader)
    found = sorted(getattr(make_pool(2), method)(function, loader.items(), size))
    assert found == at_ends_of_chunks(10, size)


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize("method", ["map", "map_async"])
def test_a_sequence_changes_the_callable(make_pool: Any, method: str, size: int | None) -> None:
    loader = Loader(20)
    result = getattr(make_pool(2), method)(loader.work, loader, size)
    found = result if method == "map" else result.get(DEADLINE)
    assert found == at_ends_of_chunks(20, size or 3)


def test_a_callable_that_cannot_be_pickled_any_more_fails_its_tasks(make_pool: Any) -> None:
    loader: Any = Loader(2)

    def items() -> Iterator[int]:
        yield 0
        loader.refuses = True
        yield 1
        del loader.refuses
        yield 2

    results = make_pool(1).imap(Refusing(loader), items())
    assert results.next(DEADLINE) == 0
    with pytest.raises(LookupError, match="^refused$"):
        results.next(DEADLINE)
    assert results.next(DEADLINE) == 2


class Refusing:
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getstate__(self) -> dict[str, Any]:
        if hasattr(self.loader, "refuses"):
            raise LookupError("refused")
        return {}

    def __call__(self, number: int) -> int:
        return number


@pytest.mark.better
def test_without_code_between_the_items_it_is_pickled_once(make_pool: Any) -> None:
    loader = Loader(0)
    assert list(make_pool(1).imap(loader.work, list(range(10)))) == [(i, -1) for i in range(10)]
    assert loader.pickled == 1
