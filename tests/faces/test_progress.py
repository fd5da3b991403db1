"""progress=: a bar or a function that is told how many items are done."""

from __future__ import annotations

import io
import sys
import types
from typing import Any, ClassVar

import pytest
import tasks
from engine import DEADLINE
from gates import Gate, eventually

import cpool

pytestmark = pytest.mark.better


class Seen(list[tuple[int, Any]]):
    """Records the calls of a progress function."""

    def __call__(self, done: int, total: int | None) -> None:
        self.append((done, total))


class Bar:
    """A stand-in for tqdm's bar."""

    made: ClassVar[list[Bar]] = []

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters
        self.n = 0
        self.closed = False
        Bar.made.append(self)

    def update(self, n: int) -> None:
        self.n += n

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    module = types.ModuleType("tqdm.auto")
    module.tqdm = Bar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_a_blocking_map_ends_with_all_items(pool: Any, chunksize: int | None) -> None:
    seen = Seen()
    assert pool.map(tasks.square, range(50), chunksize, progress=seen) == [i * i for i in range(50)]
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)


def test_every_method_takes_progress(pool: Any) -> None:
    def last(seen: Seen) -> Any:
        eventually(lambda: seen and seen[-1][0] == 4)
        return seen[-1][1]

    pairs = [(i, i) for i in range(4)]
    seen = Seen()
    pool.starmap(tasks.add, pairs, progress=seen)
    assert last(seen) == 4
    for name, func, items in (
        ("map_async", tasks.square, range(4)),
        ("starmap_async", tasks.add, pairs),
    ):
        seen = Seen()
        getattr(pool, name)(func, items, progress=seen).get(DEADLINE)
        assert last(seen) == 4
    for name in ("imap", "imap_unordered"):
        for chunksize in (1, 3):
            seen = Seen()
            assert (
                len(list(getattr(pool, name)(tasks.square, range(4), chunksize, progress=seen)))
                == 4
            )
            assert last(seen) == 4
        seen = Seen()
        assert len(list(getattr(pool, name)(tasks.square, iter(range(4)), progress=seen))) == 4
        assert last(seen) is None
    seen = Seen()
    assert pool.apply(tasks.square, (3,), progress=seen) == 9
    assert seen[-1] == (1, 1)
    seen = Seen()
    assert pool.apply_async(tasks.square, (3,), progress=seen).get(DEADLINE) == 9
    eventually(lambda: seen and seen[-1] == (1, 1))


def test_the_count_grows_while_items_run(pool: Any, gate: Gate) -> None:
    seen = Seen()
    result = pool.map_async(tasks.first_then_hold, [(gate, i) for i in range(4)], 1, progress=seen)
    eventually(lambda: any(0 < done < 4 for done, _ in seen))
    gate.open()
    result.get(DEADLINE)
    eventually(lambda: seen[-1] == (4, 4))


@pytest.mark.parametrize("method", ["map_async", "imap_unordered"])
def test_the_count_grows_within_a_chunk(pool: Any, gate: Gate, method: str) -> None:
    seen = Seen()
    items = [(gate, i) for i in range(4)]
    result = getattr(pool, method)(tasks.first_then_hold, items, 4, progress=seen)
    eventually(lambda: (1, 4) in seen)
    gate.open()
    eventually(lambda: seen[-1] == (4, 4))
    assert seen == sorted(seen)
    assert sorted(result.get(DEADLINE) if method == "map_async" else result) == [0, 1, 2, 3]


def test_nothing_is_taken_back_where_a_chunk_is_lost(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    seen = Seen()
    items = [(gate, i) for i in range(4)]
    result = pool.map_async(tasks.first_then_hold, items, 4, progress=seen, retries=1)
    eventually(lambda: (1, 4) in seen)
    for process in list(pool._pool):  # not those that take their places
        process.kill()
    gate.open()
    assert result.get(DEADLINE) == [0, 1, 2, 3]
    eventually(lambda: seen[-1] == (4, 4))
    assert seen == sorted(seen)


def test_bars_have_the_given_parameters(pool: Any, bars: list[Bar]) -> None:
    pool.map(tasks.square, range(10), progress=True)
    pool.map(tasks.square, range(10), progress="squares")
    pool.map(tasks.square, range(10), progress={"unit": "file", "total": 20})
    assert [bar.parameters for bar in bars] == [
        {"total": 10},
        {"total": 10, "desc": "squares"},
        {"total": 20, "unit": "file"},
    ]
    assert [(bar.n, bar.closed) for bar in bars] == [(10, True)] * 3


def test_a_bar_is_closed_where_the_call_fails(pool: Any, bars: list[Bar]) -> None:
    with pytest.raises(ValueError):
        pool.map(tasks.fail, range(5), 1, progress=True)
    assert [bar.closed for bar in bars] == [True]


def test_without_tqdm(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="progress=True draws its bar with tqdm"):
        pool.map(tasks.square, range(5), progress=True)
    assert pool.map(tasks.square, range(3), progress=False) == [0, 1, 4]


def test_an_invalid_progress_is_refused(pool: Any) -> None:
    with pytest.raises(TypeError, match="progress must be"):
        pool.map(tasks.square, range(5), progress=3)


def test_a_function_that_raises_is_called_once(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    assert pool.map(tasks.square, range(5), progress=tasks.fail_on_pair.__call__) == [
        0, 1, 4, 9, 16,
    ]  # fmt: skip
    assert len(raised) == 1
    assert "progress=" in f"{raised[0].err_msg} {raised[0].object!r}"  # the latter before 3.14


def test_the_report_of_a_function_that_raises(pool: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """By the interpreter's own hook, which takes nothing but what the interpreter makes."""
    hook, sys.unraisablehook = sys.unraisablehook, sys.__unraisablehook__
    try:
        pool.map(tasks.square, range(5), progress=tasks.fail_on_pair.__call__)
    finally:
        sys.unraisablehook = hook
    said = capfd.readouterr().err
    assert "fail_on_pair" in said
    assert "which is not called any more" in said
    assert "Exception in thread" not in said


def test_nothing_runs_for_an_empty_map(pool: Any) -> None:
    seen = Seen()
    assert pool.map(tasks.square, [], progress=seen) == []
    assert seen == [(0, 0)]


def test_threads() -> None:
    seen = Seen()
    with cpool.ThreadPool(2) as pool:
        assert pool.map(tasks.square, range(9), progress=seen) == [i * i for i in range(9)]
    assert seen[-1] == (9, 9)


def test_with_the_real_tqdm(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # its own thread would stay
    out = io.StringIO()
    pool.map(tasks.square, range(20), progress={"file": out, "desc": "squares"})
    assert "squares: 100%" in out.getvalue()
    assert out.getvalue().endswith("\n")
