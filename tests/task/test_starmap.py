"""starmap and starmap_async: like map, with each item unpacked into arguments."""

from __future__ import annotations

from typing import Any

import pytest
import tasks
from engine import DEADLINE, RemoteTraceback
from gates import Gate

PAIRS = list(zip(range(20), range(20, 0, -1), strict=True))


@pytest.mark.parametrize("chunksize", [None, 1, 2, 7, 20, 100])
def test_starmap_equals_itertools_starmap(pool: Any, chunksize: Any) -> None:
    expected = [a + b for a, b in PAIRS]
    assert pool.starmap(tasks.add, PAIRS, chunksize) == expected
    assert pool.starmap(tasks.add, iter(PAIRS), chunksize) == expected
    assert pool.starmap_async(tasks.add, PAIRS, chunksize).get(DEADLINE) == expected


@pytest.mark.parametrize(
    ("items", "result"),
    [
        ([(1, 2), (3,)], [((1, 2), {}), ((3,), {})]),
        ([[1, 2]], [((1, 2), {})]),
        (["ab", "c"], [(("a", "b"), {}), (("c",), {})]),
        ([()], [((), {})]),
        ([{"k": 1}], [(("k",), {})]),
        ({(1, 2): "x"}, [((1, 2), {})]),
        ([range(2)], [((0, 1), {})]),
        (zip("ab", "cd", strict=True), [(("a", "c"), {}), (("b", "d"), {})]),
        (enumerate("a"), [((0, "a"), {})]),
        ([], []),
    ],
    ids=repr,
)
def test_an_item_is_any_iterable_of_arguments(pool: Any, items: Any, result: Any) -> None:
    assert pool.starmap(tasks.arguments, items) == result


def test_parameters_have_the_documented_names(pool: Any) -> None:
    assert pool.starmap(func=tasks.add, iterable=[(1, 2)], chunksize=1) == [3]
    seen: list[Any] = []
    pool.starmap_async(
        func=tasks.add,
        iterable=[(1, 2)],
        chunksize=1,
        callback=seen.append,
        error_callback=seen.append,
    ).wait(DEADLINE)
    assert seen == [[3]]


def test_callbacks_get_the_whole_list_or_the_failure(pool: Any) -> None:
    good: list[Any] = []
    bad: list[Any] = []
    pool.starmap_async(tasks.add, [(1, 2), (3, 4)], 1, good.append, bad.append).wait(DEADLINE)
    pool.starmap_async(tasks.add, [(1, "a")], 1, good.append, bad.append).wait(DEADLINE)
    assert good == [[3, 7]]
    assert [type(error) for error in bad] == [TypeError]


def test_an_item_that_cannot_be_unpacked_fails_in_the_worker(pool: Any) -> None:
    with pytest.raises(TypeError) as caught:
        pool.starmap(tasks.add, [1, 2])
    assert str(caught.value) == "'int' object is not iterable"
    assert type(caught.value.__cause__) is RemoteTraceback
    assert pool.starmap(tasks.add, [(1, 2)]) == [3]


def test_wrong_arguments_fail_in_the_worker(pool: Any) -> None:
    with pytest.raises(TypeError) as here:
        tasks.add()  # type: ignore[call-arg]
    with pytest.raises(TypeError) as there:
        pool.starmap(tasks.add, [()])
    assert str(there.value) == str(here.value)


def test_a_function_without_a_result(pool: Any) -> None:
    assert pool.starmap(tasks.nothing, [(), ()]) == [None, None]


def test_starmap_async_does_not_wait(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    result = pool.starmap_async(tasks.held, [(gate, 1), (gate, 2)], 2)
    gate.arrived()
    assert not result.ready()
    gate.open()
    assert result.get(DEADLINE) == [1, 2]
