"""Starts the contenders of a case and has them run in turn: A B C, C B A, A B C, and so on.

Turns, because the speed of a machine drifts: what disturbs one round disturbs all contenders alike.
Processes of their own, because pools must not inherit each other's threads, descriptors and memory,
and a hang must not stop the rest.

This is what pyperf does not do: it measures one benchmark after the other, each as a function in
one process, and does not see what other processes cost. So nothing of it is used here.
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

# The folder above this package comes last on the path, not first as with -m: else the source folder
# of cpool would hide the installed one.
START = f"import sys; sys.path.append({str(ROOT)!r}); from benchmarks.contender import main; main()"

CLOSING = 10.0  # seconds for closing a pool, where that is not what is measured
LEAVING = 2.0  # seconds for what a contender started to end after it


class Failed(Exception):
    """The contender gave no measurement; the text says why."""


def command(arguments: dict[str, Any]) -> list[str]:
    return [sys.executable, "-P", "-c", START, json.dumps(arguments)]


def probe(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """For each peer its version, or under `missing` why it cannot be imported."""
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
    """One contender in a process and session of its own, so that its workers can be ended too."""

    def __init__(self, name: str, case: str, quick: bool, loops_50us: int) -> None:
        self.name = name
        self.failure: str | None = None
        self.measurements: list[dict[str, Any]] = []
        self.slow = False
        self.descendants: list[int] = []  # pidfds
        child_orders, orders = os.pipe()
        answers, child_answers = os.pipe()
        arguments = {"name": name, "case": case, "quick": quick, "loops_50us": loops_50us}
        arguments |= {"orders": child_orders, "answers": child_answers}
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
        # An answer that was written before the end counts.
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
        with contextlib.suppress(BrokenPipeError):  # it has ended then, and answer() says how
            self.orders.write(b"round\n")
        return self.answer(seconds)

    def set_up(self, seconds: float) -> None:
        """Waits until it has its input; its pool is made in the first round."""
        try:
            self.answer(seconds)
        except Failed as failure:
            self.failure = str(failure)

    def dismiss(self) -> None:
        """Lets the contender close its pool and end."""
        for pid in descendants_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                self.descendants.append(os.pidfd_open(pid))
        self.orders.close()

    def close(self, seconds: float) -> None:
        """Waits for its end; a contender that does not end is ended with all its processes."""
        if self.process.returncode is not None:
            return  # this was done before
        self.orders.close()
        if not wait([self.ended], 0 if self.failure else seconds):
            self.failure = self.failure or f"its pool did not close in {seconds:.0f} s"
            self.process.kill()
        # multiprocessing's resource tracker removes named semaphores only after the others' end.
        deadline = time.monotonic() + LEAVING
        pending = set(self.descendants)
        while pending and (left := deadline - time.monotonic()) > 0:
            pending.difference_update(wait(pending, left))
        # The contender is not reaped yet, so the number of its group is still its own.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.answers.close()
        self.errors.close()
        for descriptor in (self.ended, *self.descendants):
            os.close(descriptor)


class Pace:
    """How many rounds, and what is too long."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 3 if quick else 7
        # Short rounds are noisy ones, so a contender gets more of them: up to `most`, while they
        # took less than `enough` seconds together.
        self.most = 9 if quick else 21
        self.enough = 0.1 if quick else 2.0
        self.slow = (
            0.4 if quick else 20.0
        )  # a contender whose warm-up takes longer is measured once
        self.deadline = 20.0 if quick else 300.0


def run_once(contender: Contender, turn: int, pace: Pace) -> None:
    """One round of one contender, if it needs one; the first warms it up and is not counted."""
    if contender.failure or (contender.slow and turn > 1):
        return
    spent = sum(measurement["seconds"] for measurement in contender.measurements)
    if turn > pace.rounds and spent > pace.enough:
        return
    try:
        measurement = contender.round(pace.deadline)
    except Failed as failure:
        contender.failure = str(failure)
        return
    if turn == 0:
        contender.slow = measurement["seconds"] > pace.slow
    else:
        contender.measurements.append(measurement)


def start(case: str, names: list[str], quick: bool, loops_50us: int) -> list[Contender]:
    return [Contender(name, case, quick, loops_50us) for name in names]


def take_turns(contenders: list[Contender], pace: Pace) -> None:
    for turn in range(pace.most + 1):
        # Back and forth: nobody always comes after the same one.
        for contender in contenders if turn % 2 else reversed(contenders):
            run_once(contender, turn, pace)


def measure(
    cases: list[str], names: list[str], quick: bool, loops_50us: int
) -> Iterator[tuple[str, list[Contender]]]:
    """Runs the cases; each contender comes back with its measurements or its failure.

    Some peers take a second to close their pool. They may do that while the next case is being set
    up, but are waited for before anything is measured.
    """
    pace = Pace(quick)
    running: list[Contender] = []
    leaving: list[Contender] = []
    try:
        for place, case in enumerate(cases):
            running = start(case, names, quick, loops_50us)
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
