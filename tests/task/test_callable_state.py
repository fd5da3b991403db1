"""The state of a callable that changes while items are pulled."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from engine import DEADLINE

try:  # now: the first import may open files, which would count as left behind by a test
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]


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

    def first(self, row: Any) -> tuple[int, int]:
        return row[0], self.now


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


class Rows(Loader):
    """Its items are the arguments of a call."""

    def __getitem__(self, number: int) -> Any:
        return (super().__getitem__(number),)

    def rows(self) -> Iterator[tuple[int]]:
        return zip(self.items(), strict=True)


METHODS = ["map", "map_async", "starmap", "starmap_async"]


def call(pool: Any, method: str, *args: Any) -> Any:
    result = getattr(pool, method)(*args)
    return result.get(DEADLINE) if method.endswith("async") else result


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["method", "partial"])
def test_a_sequence_changes_the_callable(
    make_pool: Any, method: str, size: int | None, kind: str
) -> None:
    loader = Rows(20) if method.startswith("star") else Loader(20)
    function: Any = loader.work if kind == "method" else functools.partial(look, loader)
    found = call(make_pool(2), method, function, loader, size)
    assert found == at_ends_of_chunks(20, size or 3)


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_generator_is_read_before_the_first_chunk(
    make_pool: Any, method: str, size: int | None
) -> None:
    """Without a length: then all chunks have the state after the last item."""
    loader = Rows(10)
    source = loader.rows() if method.startswith("star") else loader.items()
    assert call(make_pool(2), method, loader.work, source, size) == [(i, 9) for i in range(10)]


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
def test_numpys_own_arrays_run_no_code_between_the_items(make_pool: Any) -> None:
    if numpy is None:
        pytest.skip("without numpy")
    loader = Loader(0)
    table = numpy.arange(20).reshape(10, 2)
    assert make_pool(1).map(loader.work, numpy.arange(10)) == [(i, -1) for i in range(10)]
    assert make_pool(1).map(loader.first, table) == [(i, -1) for i in range(0, 20, 2)]
    assert list(make_pool(1).imap(loader.work, table.T[1])) == [(i, -1) for i in range(1, 20, 2)]
    assert loader.pickled == 3


@pytest.mark.parametrize("kind", ["objects", "subclass"])
def test_other_arrays_may_run_code_between_the_items(make_pool: Any, kind: str) -> None:
    if numpy is None:
        pytest.skip("without numpy")

    class Changing(numpy.ndarray):  # type: ignore[misc, name-defined]
        def __getitem__(self, number: Any) -> Any:
            loader.now = number
            return super().__getitem__(number)

    loader = Loader(0)
    items: Any = numpy.arange(6).view(Changing)
    if kind == "objects":
        items = numpy.empty(6, object)
        items[:] = range(6)
    found = make_pool(1).map(loader.work, items, 2)
    assert found == ([(i, -1) for i in range(6)] if kind == "objects" else at_ends_of_chunks(6, 2))
    assert loader.pickled > 1


class Weighted:
    def __init__(self, weights: Any) -> None:
        self.weights = weights
        self.calls = 0
        self.self = self

    def __call__(self, number: int) -> tuple[Any, int]:
        self.calls += 1
        assert self.self is self
        return self.weights[number], self.calls

    def method(self, number: int) -> tuple[Any, int]:
        return self(number)

    @classmethod
    def of_class(cls, number: int) -> tuple[Any, int]:
        return cls([7] * 9)(number)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["call", "method", "partial", "of_class"])
def test_each_chunk_gets_the_callable_anew(make_pool: Any, kind: str, large: bool) -> None:
    """With data that are large or not, and as deep as nobody looks for large data."""
    weights: Any = [bytes(1 << 18)] * 9 if large else [7] * 9
    for _ in range(8):
        weights = Nested(weights)
    function: Any = {
        "call": Weighted(weights),
        "method": Weighted(weights).method,
        "partial": functools.partial(Weighted.method, Weighted(weights)),
        "of_class": Weighted.of_class,
    }[kind]
    value = bytes(1 << 18) if large and kind != "of_class" else 7
    calls = [1, 1] if kind == "of_class" else [1, 2]
    pool = make_pool(2)
    assert pool.map(function, range(4), 2) == [(value, n) for n in calls * 2]
    assert pool.apply(function, (3,)) == (value, 1)
    # Pulling these runs code, so the callable is looked at again for each chunk.
    assert list(pool.imap(function, iter(range(4)), 2)) == [(value, n) for n in calls * 2]


class Nested:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getitem__(self, number: int) -> Any:
        return self.inner[number]


@pytest.mark.better
def test_without_code_between_the_items_it_is_pickled_once(make_pool: Any) -> None:
    loader = Loader(0)
    assert list(make_pool(1).imap(loader.work, list(range(10)))) == [(i, -1) for i in range(10)]
    assert loader.pickled == 1
