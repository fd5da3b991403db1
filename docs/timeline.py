"""Draws docs/timeline.svg, the picture of docs/howto/timeline.md: `python docs/timeline.py`.

Runs the program below with a trace, and draws the slices of the trace file. So the picture shows a
real run, and differs a little each time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from svg import rect, svg, text  # noqa: E402

import cpool  # noqa: E402

# The program


def resize(number: int) -> int:
    time.sleep(0.22 if number == 10 else 0.012)
    return number


def parse(number: int) -> int:
    if number == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number


def score(line: str) -> int:
    time.sleep(0.004)
    return len(line)


def slow_lines(number: int) -> Iterator[str]:
    for _ in range(number):
        time.sleep(0.006)
        yield "text"


def run(path: Path) -> list[dict[str, Any]]:
    """Trace three calls that could be faster, and return the events of the trace."""
    with cpool.Pool(4) as pool:
        pool.map(abs, range(8))  # start the workers
        with cpool.trace(path):
            pool.map(resize, range(24), chunksize=6)
            time.sleep(0.03)
            pool.map(parse, range(32), chunksize=1, return_exceptions=True)
            time.sleep(0.03)
            list(pool.imap(score, slow_lines(40)))
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


# The drawing

LEFT, WIDTH, TOP, LANE, HEIGHT = 96, 860, 58, 30, 20
COLOURS = {"resize": "#5b8def", "parse": "#3aa675", "score": "#c9902b", "parent": "#8a63d2"}
LOST = "#d1242f"
CALLS = {"resize": "1  an uneven chunk", "parse": "2  a dead worker", "score": "3  a starved pool"}


def slice_(x: float, y: float, width: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.8):.1f}" height="{HEIGHT}"'
        f' fill="{colour}" stroke="none"><title>{title}</title></rect>'
    )


def function_of(event: dict[str, Any]) -> str:
    name: str = event["name"].split(" (")[0].split(" x ")[0]
    return name.rpartition(".")[2]


def draw(events: list[dict[str, Any]]) -> str:
    """Return the SVG file of these events."""
    slices = [event for event in events if event["ph"] == "X" and event["cat"] != "worker"]
    first = min(event["ts"] for event in slices)
    last = max(event["ts"] + event["dur"] for event in slices)
    scale = (WIDTH - LEFT - 8) / (last - first)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    order = {e["tid"]: e["args"]["sort_index"] for e in events if e["name"] == "thread_sort_index"}
    tids = sorted(names, key=lambda tid: order[tid])
    rows = {tid: TOP + LANE * number for number, tid in enumerate(tids)}
    bottom = TOP + LANE * len(tids)

    def at(ts: float) -> float:
        return LEFT + (ts - first) * scale

    parts = []
    for name, label in CALLS.items():
        of_call = [e for e in slices if e["cat"] == "task" and function_of(e) == name]
        begin = min(event["ts"] for event in of_call)
        # The parent's work for the call may have begun a moment earlier.
        before = [
            e["ts"] for e in slices if e["cat"] == "parent" and begin - 15e3 < e["ts"] < begin
        ]
        begin = min(before, default=begin)
        end = max(event["ts"] + event["dur"] for event in of_call)
        width = (end - begin) * scale
        parts += [
            rect(at(begin) - 3, 30, width + 6, bottom - 30, "group"),
            text(at(begin), 22, label, "title"),
            text(at(begin) + 2, 48, f"{name}()", "code"),
        ]
    for tid, y in rows.items():
        label = names[tid].replace("MainThread", "main").replace("cpool-", "")
        parts.append(text(LEFT - 10, y + 14, label, "small", "end"))
    for event in slices:
        is_task = event["cat"] == "task"
        colour = COLOURS[function_of(event) if is_task else "parent"]
        if event["args"].get("outcome") == "lost":
            colour = LOST
        title = f"{function_of(event) if is_task else event['name']}, {event['dur'] / 1e3:.1f} ms"
        parts.append(
            slice_(at(event["ts"]), rows[event["tid"]], event["dur"] * scale, colour, title)
        )
    for event in events:
        if event["name"] == "the worker ended" and first <= event["ts"] <= last:
            x, y = at(event["ts"]), rows[event["tid"]]
            parts.append(
                f'<path d="M{x:.1f} {y + HEIGHT} l-5 8 h10 z" fill="{LOST}">'
                "<title>the worker ended</title></path>"
            )
    for ms in range(0, int((last - first) / 1e3) + 1, 100):
        parts.append(text(at(first + ms * 1e3), bottom + 18, f"{ms} ms", "small", "middle"))
    label = "A timeline: an uneven chunk, a dead worker, and a starved pool"
    return svg(WIDTH, bottom + 28, label, parts)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        drawing = draw(run(Path(folder) / "run.json"))
    (DOCS / "timeline.svg").write_text(drawing, encoding="utf-8")
