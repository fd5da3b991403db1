"""Large data beside all who have a way of their own: `python -m benchmarks.large`.

    python -m benchmarks.large                            everything, workers by fork
    python -m benchmarks.large --start spawn
    python -m benchmarks.large --against joblib-mp ray    beside these only

Runs the cases of large data and prints one table: how many times as fast (or as small) as
multiprocessing.Pool cpool is, how many times as long it takes as the limit of the machine (copies
into memory that is in use already, made in the same run), what is asked of both, and how many times
as long each other pool takes. Peers that are not installed are left out; a peer without such a call
has a dash. The exit status is 1 if a result was wrong or cpool failed. It takes up to ten minutes.
"""

import argparse
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report, results, rounds
from benchmarks.cases import CASES, Size
from benchmarks.peers import REFERENCE, SUBJECT
from benchmarks.work import loops_for

OTHERS = ["executor", "joblib", "joblib-mp", "mpire", "interpreters", "torch", "ray"]
PIPES = "cpool-pipes"


@dataclass(frozen=True)
class Row:
    case: str
    stdlib: float | None = None  # so many times as fast, or as small, as the stdlib at least
    limit: float | None = None  # so many times the limit at most
    pipes: float | None = None  # so many times as long as without shared memory at most
    few: str | None = None  # a case with fewer rounds, which takes as much memory
    beside: bool = True  # run the other peers as well


ROWS = [
    Row("large_array_in", 25, 1.5),
    Row("large_array_in_new", 25, 1.5),
    Row("large_array_first", 5, 5),
    Row("large_array_changed", 20, 2),
    Row("large_array_out", 15),
    Row("large_array_out_empty", 25),
    Row("large_arrays", 10),
    Row("large_images", 6),
    Row("large_images_rows", 6),
    Row("large_bytes_in", 10),
    Row("large_bytes_out", 10),
    Row("large_str_in", 8),
    Row("large_bytes_8mb"),
    Row("large_frame_back", 10),
    Row("bound_100mb", 8),
    Row("memory_bound_100mb", 6, beside=False),
    Row("memory_large_few", 1, beside=False),
    Row("memory_large", 1, few="memory_large_few", beside=False),
    Row("bytes_64kb", pipes=1.1, beside=False),
]
# How much more memory fifty rounds may take than five.
FLAT = 1.05


class Pace(rounds.Pace):
    """Fewer rounds than usual: each takes a while."""

    def __init__(self, quick: bool) -> None:
        super().__init__(quick)
        if not quick:
            self.rounds, self.most, self.enough, self.slow = 5, 15, 0.7, 4.0
            self.deadline = 90.0
            if sysconfig.get_config_var("Py_GIL_DISABLED"):
                # mimalloc takes new memory for several objects of this size, before it takes that
                # of the first one again.
                self.warm = 10


def times(left: dict[str, Any] | None, right: dict[str, Any] | None) -> float | None:
    return report.ratio(left, right, "median")


def cell(value: float | None, asked: float | None = None, least: bool = True) -> str:
    """The ratio, and what is asked of it."""
    if value is None:
        return "-"
    bound = "" if asked is None else f" ({'>=' if least else '<='} {asked:g})"
    return f"{value:.3g}{bound}"


class Table:
    def __init__(self, document: results.Document, peers: list[str]) -> None:
        self.document = document
        self.peers = peers
        self.missed: list[str] = []

    def found(self, case: str, contender: str) -> dict[str, Any] | None:
        return results.measured(self.document, case, contender)

    def ask(self, row: Row, what: str, good: bool) -> None:
        if not good:
            self.missed.append(f"{row.case}: {what}")

    def line(self, row: Row) -> list[str]:
        ours = self.found(row.case, SUBJECT)
        case = self.document["cases"][row.case]
        of_stdlib = times(self.found(row.case, REFERENCE), ours)
        is_time = case["measure"] == "seconds"
        of_limit = times(ours, self.found(row.case, "limit")) if is_time else None
        cost = "failed"
        if ours is not None:
            total = ours["median"] / (case["items"] if case["per_item"] else 1)
            cost = report.format_cost(total, case["measure"])
        if of_stdlib is not None and row.stdlib is not None:
            self.ask(row, f"{of_stdlib:.3g} times the stdlib", of_stdlib >= row.stdlib)
        if of_limit is not None and row.limit is not None:
            self.ask(row, f"{of_limit:.3g} times the limit", of_limit <= row.limit)
        cells = [
            row.case,
            cost,
            cell(of_stdlib, row.stdlib),
            cell(of_limit, row.limit, False),
        ]
        for name in self.peers:
            value = times(self.found(row.case, name), ours)
            if value is not None and name != PIPES:
                self.ask(row, f"{name} takes {value:.3g} times as long", value >= 1)
            cells.append(cell(value))
        pipes = times(ours, self.found(row.case, PIPES))
        if pipes is not None and row.pipes is not None:
            self.ask(row, f"{pipes:.3g} times the cost without shared memory", pipes <= row.pipes)
        few = times(ours, self.found(row.few, SUBJECT)) if row.few else None
        if few is not None:
            self.ask(row, f"{few:.3g} times the memory of {row.few}", few <= FLAT)
        return cells

    def print(self, rows: list[Row]) -> None:
        head = ["case", "cpool", "stdlib/cpool", "cpool/limit"]
        lines = [head + [f"{name}/cpool" for name in self.peers]]
        lines += [self.line(row) for row in rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        lines.insert(1, ["-" * width for width in widths])
        print()
        for line in lines:
            padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
            print("| " + " | ".join(padded) + " |")
        print("\nNot as asked:" if self.missed else "\nEverything is as asked.")
        for text in self.missed:
            print(f"  {text}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large", description="Large data, beside other pools."
    )
    parser.add_argument("--start", default="fork", choices=["fork", "spawn", "forkserver"])
    parser.add_argument("--against", nargs="*", choices=OTHERS, default=OTHERS, metavar="NAME")
    parser.add_argument("--case", nargs="+", choices=[row.case for row in ROWS], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="smaller data: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options = parser.parse_args(arguments)

    begun = time.monotonic()
    peers = rounds.probe([SUBJECT, REFERENCE, PIPES, *options.against])
    document = results.new_document(options.quick, loops_for(50e-6), peers)
    document["start"] = options.start
    report.print_head(document)
    rows = [
        row
        for row in ROWS
        if row.case in CASES and (options.case is None or row.case in options.case)
    ]
    installed = [name for name in peers if "version" in peers[name]]
    for beside in (True, False):
        names = [name for name in installed if beside or name in (SUBJECT, REFERENCE, PIPES)]
        cases = [row.case for row in rows if row.beside is beside]
        if beside:
            names.remove(PIPES)
        names.append("limit")
        measured = rounds.measure(
            cases,
            names,
            options.quick,
            document["loops_50us"],
            options.start,
            Pace(options.quick),
        )
        for name, contenders in measured if cases else ():
            case = CASES[name]
            work = case.build(Size(options.quick, document["loops_50us"]))
            document["cases"][name] = results.describe_case(case, work, contenders)
            report.print_case(name, document["cases"][name])
            for contender in contenders:  # it would take as long in all other rows
                late = (contender.failure or "").startswith("no answer")
                if late and contender.name in options.against and contender.name in names:
                    names.remove(contender.name)
    if options.json is not None:
        results.save(document, options.json)
    others = [name for name in installed if name not in (SUBJECT, REFERENCE)]
    Table(document, others).print(rows)
    print(
        f"\nworkers by {options.start}, {time.monotonic() - begun:.0f} s, "
        f"load {document['load']:.1f} before"
    )
    failures = report.failures(document)
    for text in failures:
        print(f"FAILED: {text}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
