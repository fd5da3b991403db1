"""Starts the contenders of a case and runs their rounds in turn: A B C, C B A, A B C, and so on.

The contenders take turns because the speed of a machine drifts: a disturbance should affect all of
them equally. Each has its own process, so that pools do not inherit each other's threads,
descriptors and memory, and one hang does not stop the others.

pyperf cannot do this: it measures one benchmark after another, each a function in one process, and
does not see the cost of other processes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from benchmarks.meter import descendants_of

ROOT = Path(__file__).resolve().parent.parent

# Append the repository to sys.path. With -m it would come first, and the source folder of cpool
# would hide the installed package.
START = f"import sys; sys.path.append({str(ROOT)!r}); from benchmarks.contender import main; main()"

CLOSING = 10.0  # seconds to close a pool, if closing is not measured
LEAVING = 2.0  # seconds for descendants of a contender to exit after it


class Failed(Exception):
    """The contender returned no measurement; the text says why."""


def command(arguments: dict[str, Any]) -> list[str]:
    return [sys.executable, "-P", "-c", START, json.dumps(arguments)]


def probe(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """For each peer its `version`, or why it is `missing`."""
    processes = {
        name: subprocess.Popen(
            command({"name": name}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for name in names
    }
    found: dict[str, dict[str, str]] = {}
    for name, process in processes.items():
        try:
            found[name] = json.loads(process.communicate(timeout=60)[0])
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            process.kill()
            process.wait()
            found[name] = {"missing": f"its import ended with status {process.returncode}"}
    return found


class Contender:
    """One contender, in a process and session of its own, so that its workers can be killed too."""

    def __init__(self, name: str, case: str, quick: bool, loops_50us: int, start: str) -> None:
        self.name = name
        self.failure: str | None = None
        self.measurements: list[dict[str, Any]] = []
        self.slow = False
        self.descendants: list[int] = []  # pidfds
        child_orders, orders = os.pipe()
        answers, child_answers = os.pipe()
        arguments = {"name": name, "case": case, "quick": quick, "loops_50us": loops_50us}
        arguments |= {"start": start, "orders": child_orders, "answers": child_answers}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self.process = subprocess.Popen(
            command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
            pass_fds=(child_orders, child_answers),
            start_new_session=True,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        os.close(child_orders)
        os.close(child_answers)
        self.ended = os.pidfd_open(self.process.pid)
        self.orders = os.fdopen(orders, "wb", buffering=0)
        self.answers = os.fdopen(answers)

    def answer(self, seconds: float) -> dict[str, Any]:
        answers = self.answers.fileno()
        ready = wait([answers, self.ended], seconds)
        if not ready:
            raise Failed(f"no answer in {seconds:.0f} s")
        # An answer written before the exit counts.
        line = self.answers.readline() if answers in ready else ""
        if not line:
            raise Failed(f"its process ended; {self.last_words()}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise Failed(f"{message['error']}: {message['text']}")
        return message

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"it said: {lines[-1]}" if lines else "it said nothing"

    def round(self, seconds: float) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # it has exited: answer() reports how
            self.orders.write(b"round\n")
        return self.answer(seconds)

    def set_up(self, seconds: float) -> None:
        """Wait until the contender has built its input. It creates its pool in the first round."""
        try:
            self.answer(seconds)
        except Failed as failure:
            self.failure = str(failure)

    def dismiss(self) -> None:
        """Tell the contender to close its pool and exit."""
        for pid in descendants_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                self.descendants.append(os.pidfd_open(pid))
        self.orders.close()

    def close(self, seconds: float) -> None:
        """Wait for the exit of the contender, or kill it. Kill what is left of its processes."""
        if self.process.returncode is not None:
            return  # closed before
        self.orders.close()
        if not wait([self.ended], 0 if self.failure else seconds):
            self.failure = self.failure or f"its pool did not close in {seconds:.0f} s"
            self.process.kill()
        # multiprocessing's resource tracker unlinks named semaphores after all others have exited.
        deadline = time.monotonic() + LEAVING
        pending = set(self.descendants)
        while pending and (left := deadline - time.monotonic()) > 0:
            pending.difference_update(wait(pending, left))
        # The contender is not reaped yet, so its process group id cannot have been reused.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.answers.close()
        self.errors.close()
        for descriptor in (self.ended, *self.descendants):
            os.close(descriptor)


class Pace:
    """The number of rounds, and the timeouts."""

    def __init__(self, quick: bool) -> None:
        self.warm = 1  # rounds before those that count
        self.rounds = 3 if quick else 7
        # Short rounds are noisy, so a contender gets more of them: up to `most`, as long as the
        # total is below `enough` seconds.
        self.most = 9 if quick else 21
        self.enough = 0.1 if quick else 2.0
        self.slow = (
            0.4 if quick else 20.0
        )  # a contender with a slower warm-up round is measured only once
        self.deadline = 20.0 if quick else 300.0


def run_once(contender: Contender, turn: int, pace: Pace) -> None:
    """Run one round of a contender, if it needs more. The first ones are a warm-up, not counted."""
    if contender.failure or (contender.slow and turn != pace.warm):
        return
    spent = sum(measurement["seconds"] for measurement in contender.measurements)
    if turn >= pace.warm + pace.rounds and spent > pace.enough:
        return
    try:
        measurement = contender.round(pace.deadline)
    except Failed as failure:
        contender.failure = str(failure)
        return
    if turn == 0:
        contender.slow = measurement["seconds"] > pace.slow
    if turn >= pace.warm:
        contender.measurements.append(measurement)


def start(
    case: str, names: list[str], quick: bool, loops_50us: int, method: str
) -> list[Contender]:
    return [Contender(name, case, quick, loops_50us, method) for name in names]


def take_turns(contenders: list[Contender], pace: Pace) -> None:
    for turn in range(pace.warm + pace.most):
        # Back and forth, so that no contender always follows the same one.
        for contender in contenders if turn % 2 else reversed(contenders):
            run_once(contender, turn, pace)


def measure(
    cases: list[str],
    names: list[str],
    quick: bool,
    loops_50us: int,
    method: str = "fork",
    pace: Pace | None = None,
) -> Iterator[tuple[str, list[Contender]]]:
    """Run the cases. Yields each case with its contenders, which have measurements or a failure.

    `method` takes the place of fork in cases whose workers are forked.

    Some peers take a second to close their pool. This overlaps with the setup of the next case, but
    is over before anything is measured.
    """
    pace = pace or Pace(quick)
    running: list[Contender] = []
    leaving: list[Contender] = []
    try:
        for place, case in enumerate(cases):
            running = start(case, names, quick, loops_50us, method)
            for contender in running:
                contender.set_up(pace.deadline)
            if place:
                close_all(leaving)
                yield cases[place - 1], leaving
            take_turns(running, pace)
            for contender in running:
                contender.dismiss()
            leaving, running = running, []
        close_all(leaving)
        yield cases[-1], leaving
    finally:
        for contender in running + leaving:
            contender.close(0)


def close_all(contenders: list[Contender]) -> None:
    for contender in contenders:
        contender.close(CLOSING)
