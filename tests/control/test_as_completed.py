"""`as_completed()`."""

from __future__ import annotations

import decimal
import multiprocessing
import threading
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE
from gates import Gate

pytestmark = pytest.mark.better

errors = engine.errors
POOLS = [engine.pool_module.Pool, engine.pool_module.ThreadPool]


def test_results_come_in_the_order_of_their_ends(either: Any, make_gate: Any) -> None:
    gates = [make_gate() for _ in range(2)]
    results = [either.apply_async(gate.hold, (n,)) for n, gate in enumerate(gates)]
    for gate in gates:
        gate.arrived()
    found = errors.as_completed(results, DEADLINE)
    gates[1].open()
    assert next(found) is results[1]
    gates[0].open()
    assert next(found) is results[0]
    assert list(found) == []


def test_every_result_comes_once(either: Any) -> None:
    results = [either.apply_async(tasks.square, (x,)) for x in range(500)]
    results += [either.map_async(tasks.square, range(3)), either.map_async(tasks.square, [])]
    found = list(errors.as_completed(results + results[:5], DEADLINE))
    assert len(found) == len(results)
    assert set(found) == set(results)
    assert all(result.ready() for result in found)


def test_failures_come_too(either: Any) -> None:
    results = [either.apply_async(tasks.fail), either.apply_async(tasks.square, (2,))]
    outcomes = [result.successful() for result in errors.as_completed(results, DEADLINE)]
    assert sorted(outcomes) == [False, True]
    with pytest.raises(ValueError):
        results[0].get()


def test_results_with_callbacks(either: Any) -> None:
    seen: list[int] = []
    results = [either.apply_async(tasks.square, (x,), callback=seen.append) for x in range(9)]
    for count, _ in enumerate(errors.as_completed(results, DEADLINE), 1):
        assert len(seen) >= count


def test_a_time_limit(either: Any, gate: Gate) -> None:
    result = either.apply_async(gate.hold, (1,))
    found = errors.as_completed([result], 0.01)
    with pytest.raises(multiprocessing.TimeoutError, match="1 results are not ready"):
        next(found)


@pytest.mark.parametrize("number", [float, decimal.Decimal])
def test_time_limits_of_other_types(pool: Any, number: Any) -> None:
    """A nan is no limit that could ever pass: without an error, the wait would not end."""
    result = pool.apply_async(tasks.square, (2,))
    for limit in "nan", "-nan":
        with pytest.raises(ValueError, match="timeout must be a number of seconds, not"):
            errors.as_completed([result], number(limit))
    assert list(errors.as_completed([result], number("inf"))) == [result]


def test_results_of_two_pools(make_pool: Any) -> None:
    pools = [make_pool(1, cls=cls) for cls in POOLS]
    results = [pool.apply_async(tasks.square, (x,)) for x in range(20) for pool in pools]
    assert set(errors.as_completed(results, DEADLINE)) == set(results)


def test_another_thread_waits_meanwhile(either: Any, gate: Gate) -> None:
    result = either.apply_async(gate.hold, (1,))
    gate.arrived()
    waiting = threading.Thread(target=result.wait, args=(DEADLINE,))
    waiting.start()
    gate.open()
    assert list(errors.as_completed([result], DEADLINE)) == [result]
    waiting.join(DEADLINE)
    assert not waiting.is_alive()


def test_a_pool_that_is_terminated(either: Any, gate: Gate) -> None:
    result = either.apply_async(gate.hold, (1,))
    gate.arrived()
    ending = threading.Timer(0.01, either.terminate)
    ending.start()
    assert list(errors.as_completed([result], DEADLINE)) == [result]
    with pytest.raises(errors.PoolTerminated):
        result.get(DEADLINE)
    ending.join()


def test_what_is_no_result_is_refused(either: Any) -> None:
    with pytest.raises(TypeError, match="asynchronous calls"):
        errors.as_completed([1])
    with pytest.raises(TypeError, match="asynchronous calls"):
        errors.as_completed([either.imap(tasks.square, [1])])


def test_a_result_of_the_stdlibs_engine_is_refused() -> None:
    from multiprocessing.pool import ThreadPool as StdlibPool

    with StdlibPool(1) as pool:
        result = pool.apply_async(tasks.square, (1,))
        with pytest.raises(ValueError, match="cpool's engine"):
            errors.as_completed([result])
        pool.close()
        pool.join()
