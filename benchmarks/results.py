"""The results of a run: one JSON document, to be saved, compared and drawn."""

import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Work
from benchmarks.rounds import ROOT, Contender

FORMAT = 1

Document = dict[str, Any]


def output_of(*command: str) -> str | None:
    """The output of a command, or None if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def describe_machine() -> dict[str, Any]:
    compiler = (output_of("cc", "--version") or "none").splitlines()[0]
    return {
        "machine": platform.machine(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_compiler": platform.python_compiler(),
        "compiler": compiler,
        "load": os.getloadavg()[0],
    }


def describe_commit() -> dict[str, Any]:
    changes = output_of("git", "status", "--porcelain", "--untracked-files=no")
    return {"commit": output_of("git", "rev-parse", "HEAD"), "changed": bool(changes)}


def new_document(quick: bool, loops_50us: int, peers: dict[str, dict[str, str]]) -> Document:
    return {
        "format": FORMAT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "quick": quick,
        "loops_50us": loops_50us,
        **describe_machine(),
        **describe_commit(),
        "peers": peers,
        "cases": {},
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def describe_contender(contender: Contender, measure: str) -> dict[str, Any]:
    if contender.failure:
        return {"failed": contender.failure}
    values = [measurement[measure] for measurement in contender.measurements]
    cpu = [measurement["cpu"] for measurement in contender.measurements]
    low, median, high = quartiles(values)
    return {
        "low": low,
        "median": median,
        "high": high,
        "cpu": statistics.median(cpu),
        "values": values,
        "cpu_values": cpu,
    }


def describe_case(case: Case, work: Work, contenders: list[Contender]) -> dict[str, Any]:
    return {
        "about": case.about,
        "items": len(work.items),
        "per_item": work.per_item,
        "measure": work.measure,
        "limit": work.limit,
        "workers": work.workers,
        "contenders": {
            contender.name: describe_contender(contender, work.measure) for contender in contenders
        },
    }


def measured(document: Document, case: str, contender: str) -> dict[str, Any] | None:
    """The measurements of a contender in a case, or None if it did not run or failed."""
    found = document["cases"].get(case, {"contenders": {}})["contenders"].get(contender)
    return None if found is None or "failed" in found else found


def save(document: Document, path: Path) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Document:
    """Raises ValueError for a file that save() did not write."""
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise ValueError("it was not written by this harness")
    return document
