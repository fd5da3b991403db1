"""Draws the SVG files of docs/architecture.md and docs/how-it-works.md: `python docs/drawings.py`.

tests/package/test_architecture.py checks that the SVG files are what this script draws, and that
the functions in STEPS are in the files given and call each other as the drawing says.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
DOCS = TOP / "docs"
sys.path.insert(0, str(TOP / "tests"))

from svg import arrow, rect, svg, text  # noqa: E402


@dataclass(frozen=True)
class Layer:
    """A package: its folders, highest first, each with its purpose."""

    title: str
    path: str
    folders: dict[str, str]


LAYERS = [
    Layer(
        "the package (Python)",
        "cpool",
        {
            "": "the public modules: what multiprocessing.pool has, and the errors",
            "_program": "replacing multiprocessing.pool; the standard library's pool as a fallback",
            "_cluster": "the pool on a dask.distributed cluster; see docs/cluster.md",
            "_engine": "Pool, ThreadPool and their results, on the engine in C",
            "_start": "starting worker processes; what runs in a worker before its first task",
            "_base": "the standard library's names, exceptions between processes, the pool's size",
        },
    ),
    Layer(
        "the binding (C with Python.h): pickles, raises, runs Python code",
        "csrc/py",
        {
            "engine": "what the package calls: submitting jobs, the helper's loop, the module",
            "worker": "the loop in a worker process, and in a worker thread",
            "job": "what a submission returns: waiting, decoding, settling, callbacks",
            "task": "from items to tasks, and calling the function",
            "value": "objects to bytes and back: our own encoding, or pickle",
            "base": "module state, exceptions, timeouts",
        },
    ),
    Layer(
        "the core (C without Python.h): moves bytes, never looks into them",
        "csrc/core",
        {
            "pool": "jobs, scheduling, the event loop, the life of a pool: record, then act",
            "link": "between the parent and one worker: frames, board, the two ends",
            "share": "shared memory for large data: the file, its blocks, parts of bodies",
            "os": "differences between systems: descriptors, polling, processes",
            "base": "error codes, clock, locks, buffers, huge pages",
        },
    ),
]


@dataclass(frozen=True)
class Call:
    function: str
    file: str  # under csrc/, or with cpool/
    depth: int  # called by the call above it with a depth that is less by 1


@dataclass(frozen=True)
class Step:
    """A part of a task's way, as a tree of calls: each line has a function and its file.

    A function that is not indented is called by a function of an earlier step. Otherwise `entry`
    names the file that has the function as a callback or in a table.
    """

    title: str
    side: str  # parent, worker
    tree: str
    entry: str = ""

    @property
    def calls(self) -> list[Call]:
        lines = textwrap.dedent(self.tree).strip().splitlines()
        return [Call(*line.split(), depth=(len(line) - len(line.lstrip())) // 2) for line in lines]


STEPS = [
    Step(
        "1. pool.map(function, items)",
        "parent",
        """
        map             cpool/_engine/processes.py
          _map          cpool/_engine/processes.py
            _measure    cpool/_engine/processes.py
        """,
    ),
    Step(
        "2. Engine.run(): pickle the function, encode the items",
        "parent",
        """
        py_submit_run                   py/engine/submit.c
          feed_first                    py/engine/submit.c
            py_feed_open                py/task/feed.c
              py_func_set               py/task/func.c
                cp_func_open            core/pool/pool.c
            py_feed                     py/task/feed.c
              feed_one                  py/task/feed.c
                py_source_next_chunk    py/task/source.c
                py_batch_add_task       py/task/batch.c
                  encode                py/task/batch.c
                    py_run_put          py/value/run.c
                      py_encode_run     py/value/encoder.c
                  cp_task_new_take      core/link/task.c
              py_batch_flush            py/task/batch.c
        """,
        entry="csrc/py/engine/engine.c",
    ),
    Step(
        "3. Record: queue the tasks",
        "parent",
        """
        cp_job_put_take         core/pool/pool.c
          cp_jobs_queue_take    core/pool/jobs.c
            cp_job_queue_last   core/pool/job.c
            note_queued         core/pool/jobs.c
              cp_turns_add      core/pool/turns.c
        """,
    ),
    Step(
        "4. Act: hand out the tasks, write to the pipes",
        "parent",
        """
        cp_act                          core/pool/act.h
          cp_act_now                    core/pool/act.c
            act_on_processes            core/pool/act.c
              hand_out                  core/pool/act.c
                hand_to                 core/pool/act.c
                  cp_sched_fill         core/pool/sched.c
                    next_for            core/pool/sched.c
                      next_of_all       core/pool/sched.c
                        cp_turns_next   core/pool/turns.c
                    cp_worker_send_task core/link/worker.c
                      put_frame         core/link/worker.c
                      cp_claim_offer    core/link/board.c
                  cp_watch_flush        core/pool/watch.c
                    cp_worker_flush     core/link/worker.c
                      cp_fd_writev      core/os/fd.c
        """,
    ),
    Step(
        "5. Worker.serve(): receive and claim a task",
        "worker",
        """
        py_serve                py/worker/serve.c
          loop_once             py/worker/serve.c
            wait_for_more       py/worker/serve.c
              cp_serve_wait     core/link/serve.c
                read_input      core/link/serve.c
                  cp_fd_read    core/os/fd.c
            cp_serve_next       core/link/serve.c
              cp_wire_get       core/link/wire.c
              cp_claim_take     core/link/board.c
        """,
        entry="csrc/py/worker/worker.c",
    ),
    Step(
        "6. Decode the items, call the function for each",
        "worker",
        """
        do_task                 py/worker/serve.c
          cp_serve_begin        core/link/serve.c
          func_of               py/worker/serve.c
            load_func           py/worker/serve.c
          run_task              py/worker/serve.c
            py_run_get          py/value/run.c
              py_decode_run     py/value/decoder.c
            run_chunk           py/worker/serve.c
              py_call_each      py/task/call.c
        """,
    ),
    Step(
        "7. Encode the results, write them",
        "worker",
        """
        pack_result             py/worker/serve.c
          put_result            py/worker/serve.c
            py_run_put          py/value/run.c
        answer_task             py/worker/serve.c
          answer                py/worker/serve.c
            cp_serve_put        core/link/serve.c
              cp_ring_put       core/link/board.c
            cp_serve_flush      core/link/serve.c
              write_all         core/link/serve.c
                cp_fd_writev_to_parent core/os/fd.c
        """,
    ),
    Step(
        "8. Meanwhile: wait, then read the answer",
        "parent",
        """
        py_result_await                   py/job/wait.c
          wait_until                      py/job/wait.c
            cp_pool_wait                  core/pool/drive.c
              wait_for                    core/pool/drive.c
                step                      core/pool/drive.c
                  cp_spin                 core/pool/spin.c
                    cp_watch_harvest      core/pool/watch.c
                      receive_ring        core/pool/watch.c
                        cp_worker_recv_ring core/link/worker.c
                  cp_poller_wait          core/os/poller_epoll.c
                  cp_watch_on_ready       core/pool/watch.c
                    on_input              core/pool/watch.c
                      receive             core/pool/watch.c
                        cp_worker_recv    core/link/worker.c
                          parse_frames    core/link/worker.c
                            on_frame      core/link/worker.c
        """,
    ),
    Step(
        "9. Record the result, then act",
        "parent",
        """
        on_result                       core/pool/watch.c
          cp_jobs_answer_take           core/pool/jobs.c
            cp_jobs_add_result_take     core/pool/jobs.c
              cp_job_inbox_put          core/pool/job.c
            end_if_complete             core/pool/jobs.c
              set_done                  core/pool/jobs.c
                cp_note_job             core/pool/wake.c
        act_on_answers                  core/pool/drive.c
          cp_act                        core/pool/act.h
            cp_act_now                  core/pool/act.c
              cp_wake_noted             core/pool/wake.c
        """,
        entry="csrc/core/pool/watch.c",
    ),
    Step(
        "10. Decode the results into the list, return it",
        "parent",
        """
        py_result_absorb                py/job/settle.c
          py_result_decode              py/job/settle.c
            cp_job_take_all             core/pool/pool.c
            absorb_one                  py/job/settle.c
              py_result_decode_one      py/job/settle.c
                decode_once             py/job/settle.c
                  place                 py/job/settle.c
                    py_run_get          py/value/run.c
                    place_run           py/job/settle.c
          py_result_settle_take         py/job/settle.c
        py_result_outcome               py/job/settle.c
        """,
    ),
]


def files_of(folder: Path) -> list[str]:
    """The names of the files in a folder, without suffixes."""
    found = {path.stem for path in folder.iterdir() if path.suffix in (".c", ".h", ".py")}
    return sorted(found - {"__init__"})


def draw_layers() -> str:
    width, left, row = 900, 20, 19
    inner, parts = width - 2 * left, []
    y: float = 10
    for number, layer in enumerate(LAYERS):
        if number > 0:
            parts += [arrow(f"M{width / 2} {y}V{y + 26}"), text(width / 2 + 10, y + 18, "calls")]
            y += 28
        top = y
        y += 22
        parts.append(text(left + 12, y, f"{layer.path}/   {layer.title}", "title"))
        y += 10
        for name, purpose in layer.folders.items():
            files = textwrap.wrap(", ".join(files_of(TOP / layer.path / name)), 88)
            height = 8 + row * (1 + len(files))
            parts.append(rect(left + 10, y, inner - 20, height))
            shown = f"{name}/" if name else f"{layer.path}/"
            parts.append(text(left + 22, y + 18, shown, "title"))
            parts.append(text(left + 120, y + 18, purpose))
            for at, line in enumerate(files):
                parts.append(text(left + 120, y + 18 + row * (at + 1), line, "small code"))
            y += height + 6
        y += 4
        parts.append(rect(left, top, inner, y - top, "group"))
    return svg(width, y + 10, "The layers of cpool, highest first", parts)


COLUMN, GAP, LINE = 440, 90, 15
SIDES = {"parent": 20, "worker": 20 + COLUMN + GAP}
HEADS = {
    "parent": "parent process, the calling thread",
    "worker": "worker process, the main thread",
}
LEGEND = (
    "Indented: called by the function above.",
    "At the right: the file, under csrc/ if not in cpool/.",
    "All of it is one call of pool.map(); the worker's part runs",
    "while the calling thread waits in step 8.",
)


def height_of(step: Step) -> float:
    return 16 + LINE * (1 + len(step.calls))


def draw_step(step: Step, y: float) -> list[str]:
    x = SIDES[step.side]
    parts = [rect(x, y, COLUMN, height_of(step)), text(x + 12, y + 18, step.title, "title")]
    for at, call in enumerate(step.calls, start=1):
        line = y + 20 + LINE * at
        parts.append(text(x + 12 + 14 * call.depth, line, f"{call.function}()", "code"))
        parts.append(text(x + COLUMN - 12, line, call.file, "small", "end"))
    return parts


def place_steps() -> list[float]:
    """The top of each step. The worker's first step is next to the parent's step before it."""
    tops: list[float] = []
    y = {"parent": 44.0}
    for step in STEPS:
        tops.append(y.setdefault(step.side, tops[-1] if tops else 0))
        y[step.side] = tops[-1] + height_of(step) + 22
    return tops


def across(x: float, y: float, to_x: float, to_y: float, labels: list[str]) -> list[str]:
    """An arrow from one column to the other, with labels above it."""
    middle = (x + to_x) / 2
    end = to_x - 1 if to_x > x else to_x + 1
    label_y = min(y, to_y) - 10 - 13 * (len(labels) - 1)
    return [
        arrow(f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {end:g} {to_y:g}"),
        *(
            text(middle, label_y + 13 * at, label, "small", "middle")
            for at, label in enumerate(labels)
        ),
    ]


def draw_task() -> str:
    tops = place_steps()
    bottoms = [top + height_of(step) for top, step in zip(tops, STEPS, strict=True)]
    parts = [
        text(SIDES[side] + COLUMN / 2, 26, head, "title", "middle") for side, head in HEADS.items()
    ]
    parts += [
        text(SIDES["worker"] + 12, 70 + 17 * at, line, "small") for at, line in enumerate(LEGEND)
    ]
    last: dict[str, int] = {}
    for number, step in enumerate(STEPS):
        parts += draw_step(step, tops[number])
        if step.side in last:  # down the same column
            x = SIDES[step.side] + COLUMN / 2
            parts.append(arrow(f"M{x:g} {bottoms[last[step.side]]:g}V{tops[number] - 1:g}"))
        last[step.side] = number
        if number == 0 or STEPS[number - 1].side == step.side:
            continue
        if step.side == "worker":
            y = tops[number] + 60
            parts += across(SIDES["parent"] + COLUMN, y, SIDES["worker"], y, ["task pipe"])
        else:
            parts += across(
                SIDES["worker"],
                tops[number - 1] + 60,
                SIDES["parent"] + COLUMN,
                tops[number] + 60,
                ["result pipe,", "shared ring"],
            )
    width = 40 + 2 * COLUMN + GAP
    return svg(width, max(bottoms) + 20, "The way of one task through cpool and back", parts)


def box(x: float, y: float, width: float, lines: list[str]) -> list[str]:
    """A box with a title and lines below it."""
    return [
        rect(x, y, width, 22 + 17 * (len(lines) - 1) + 8),
        text(x + 12, y + 19, lines[0], "title"),
        *(text(x + 12, y + 19 + 17 * at, line, "small") for at, line in enumerate(lines) if at),
    ]


def both_ways(x: float, y: float, to_x: float) -> list[str]:
    return [arrow(f"M{x} {y}H{to_x - 1}"), arrow(f"M{to_x} {y + 14}H{x + 1}")]


def draw_drivers() -> str:
    """Which thread runs the event loop, in a blocking and in an asynchronous call."""
    workers = ["worker processes", "run the tasks"]
    parts = [
        text(20, 26, "results = pool.map(f, items)", "code"),
        rect(20, 40, 470, 86, "group"),
        *box(
            34, 54, 440, ["the calling thread runs the event loop", "encodes items, writes tasks,"]
        ),
        text(46, 107, "reads results, rebuilds values", "small"),
        *both_ways(490, 70, 700),
        *box(700, 54, 180, workers),
        text(20, 166, "result = pool.map_async(f, items, callback=done)", "code"),
        rect(20, 180, 470, 236, "group"),
        *box(34, 194, 440, ["the calling thread goes on", "after it has encoded the first items"]),
        *box(
            34, 250, 440, ["the standby thread runs the event loop", "in C; it never takes the GIL"]
        ),
        *box(34, 306, 440, ["the helper thread calls done(results)"]),
        *box(34, 345, 440, ["the starter thread starts a new worker", "when one has died"]),
        *both_ways(490, 266, 700),
        *box(700, 250, 180, workers),
        text(20, 440, "A later result.get() takes the event loop over from the standby.", "small"),
    ]
    return svg(900, 455, "Which thread runs the event loop", parts)


def draw_memory() -> str:
    """Where the bytes of items and results are on their way."""
    left, middle, right = 20, 330, 640
    parts = [
        text(left + 120, 26, "parent", "title", "middle"),
        text(middle + 120, 26, "kernel and shared memory", "title", "middle"),
        text(right + 120, 26, "worker", "title", "middle"),
        *box(
            left,
            44,
            240,
            ["items", "Python objects; each encoded once,", "shortly before it is sent"],
        ),
        arrow(f"M{left + 120} 108V129"),
        *box(
            left,
            130,
            240,
            [
                "output",
                "small tasks: one buffer, 64 KiB at most;",
                "large ones: from where they lie",
            ],
        ),
        arrow(f"M{left + 240} 162H{middle - 1}"),
        *box(middle, 130, 240, ["task pipe", "64 KiB; 256 KiB once a task is large"]),
        arrow(f"M{middle + 240} 154H{right - 1}"),
        *box(
            right,
            130,
            240,
            ["arguments", "rebuilt objects; arrays stay where", "they were read to"],
        ),
        arrow(f"M{right + 120} 194V215"),
        *box(right, 216, 240, ["result", "encoded when the task returns"]),
        arrow(f"M{right} 240H{middle + 241}"),
        *box(middle, 216, 240, ["ring, 64 KiB of shared memory", "small results: no system call"]),
        arrow(f"M{right} 252L{middle + 241} 300"),
        *box(middle, 276, 240, ["result pipe", "large results"]),
        arrow(f"M{middle} 240H{left + 241}"),
        arrow(f"M{middle} 300L{left + 241} 252"),
        *box(left, 216, 240, ["results", "bytes, until somebody asks;", "then Python objects"]),
        *box(
            middle, 346, 240, ["row, a page of shared memory", "which task is offered, and claimed"]
        ),
        arrow(f"M{left + 120} 280V370H{middle - 1}"),
        arrow(f"M{right + 120} 263V370H{middle + 241}"),
    ]
    return svg(900, 410, "Where the bytes of items and results lie", parts)


DRAWINGS = {
    "folders.svg": draw_layers,
    "task.svg": draw_task,
    "drivers.svg": draw_drivers,
    "memory.svg": draw_memory,
}


def main() -> None:
    for name, draw in DRAWINGS.items():
        (DOCS / name).write_text(draw(), encoding="utf-8")
        print(f"drawn: docs/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
