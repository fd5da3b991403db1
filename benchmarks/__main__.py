"""The command line: which cases and peers to run, and what to do with the results."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import compare, plots, report, results, rounds
from benchmarks.cases import CASES, Size
from benchmarks.peers import PEERS, REFERENCE, SUBJECT
from benchmarks.work import loops_for


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    others = [name for name in PEERS if name not in (SUBJECT, REFERENCE)]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compares cpool with other process pools and with the machine's limits.",
        epilog="cases: "
        + ", ".join(CASES)
        + ". The exit status is 1 if a result was wrong, if cpool "
        "failed in a case, is slower than multiprocessing in one of pains_*, or got slower; 2 if "
        "the runs cannot be compared.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer cases, rounds and items: under two minutes"
    )
    parser.add_argument(
        "--case",
        nargs="+",
        choices=CASES,
        metavar="NAME",
        help="only these cases",
    )
    parser.add_argument(
        "--against",
        nargs="*",
        choices=others,
        metavar="NAME",
        help=f"compare with {REFERENCE} and only these peers ({', '.join(others)}); without this "
        f"with all but {', '.join(name for name in others if not PEERS[name].by_default)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    parser.add_argument(
        "--save-baseline", type=Path, metavar="FILE", help="the same, for a later --compare"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="list what got slower than in FILE",
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw SVG files (matplotlib)")
    options = parser.parse_args(arguments)
    if options.plots is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plots needs matplotlib")
    return options


def run_cases(document: results.Document, names: list[str]) -> None:
    contenders = [name for name, found in document["peers"].items() if "version" in found]
    contenders.append("limit")
    quick, loops = document["quick"], document["loops_50us"]
    for name, measured in rounds.measure(names, contenders, quick, loops):
        case = CASES[name]
        work = case.build(Size(quick, loops))
        document["cases"][name] = results.describe_case(case, work, measured)
        report.print_case(name, document["cases"][name])


def load_baseline(path: Path) -> results.Document:
    """Load the file before measuring, so that a wrong file costs no time."""
    try:
        return results.load(path)
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    baseline = load_baseline(options.compare) if options.compare else None
    asked = options.against
    others = [n for n, peer in PEERS.items() if (peer.by_default if asked is None else n in asked)]
    peers = [name for name in PEERS if name in others or name in (SUBJECT, REFERENCE)]
    document = results.new_document(options.quick, loops_for(50e-6), rounds.probe(peers))
    if baseline is not None and (different := compare.differences(baseline, document)):
        print("The baseline is not comparable: " + "; ".join(different), file=sys.stderr)
        return 2

    report.print_head(document)
    names = options.case or [n for n, case in CASES.items() if case.quick or not options.quick]
    run_cases(document, names)

    for path in (options.json, options.save_baseline):
        if path is not None:
            results.save(document, path)
    if options.plots is not None:
        for path in plots.draw(document, options.plots):
            print(f"drawn: {path}")
    slower = baseline is not None and compare.print_comparison(baseline, document)
    failures = report.failures(document)
    failures += [f"slower than {REFERENCE}: {line}" for line in compare.behind(document)]
    for line in failures:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if slower or failures else 0


if __name__ == "__main__":
    sys.exit(main())
