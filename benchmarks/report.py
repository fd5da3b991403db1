"""The table of results: one line for each contender of each case."""

from typing import Any

from benchmarks.limits import LIMITS
from benchmarks.peers import PEERS, REFERENCE, SUBJECT
from benchmarks.results import Document

HEADER = (
    f"{'case':<23}{'contender':<17}{'cost':>10}{'x stdlib':>10}{'of limit':>10}"
    f"{'CPU':>8}{'spread':>9}{'rounds':>8}"
)
LEGEND = """\
cost       median of the rounds, per item or in total, as the line of the case says
x stdlib   how many times as fast (or as small) as multiprocessing's pool of the same kind, with
           fork unless the case says otherwise
of limit   the cost of the limit as a share of this cost
CPU        CPU seconds of the process and its workers; multiprocessing's are 1
spread     interquartile range of the rounds as a share of the median"""


def format_cost(cost: float, measure: str) -> str:
    if measure != "seconds":
        return f"{cost / 1e6:.2f} MB"
    for scale, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if cost * scale < 1000:
            return f"{cost * scale:.{2 if cost * scale < 100 else 1}f} {unit}"
    return f"{cost:.3f} s"


def ratio(left: dict[str, Any] | None, right: dict[str, Any] | None, key: str) -> float | None:
    """left / right, or None if one of them was not measured."""
    if left is None or right is None or "failed" in left or "failed" in right or not right[key]:
        return None
    return float(left[key] / right[key])


def format_ratio(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def line_of(name: str, case: dict[str, Any]) -> str:
    contenders = case["contenders"]
    found = contenders[name]
    if "failed" in found:
        return f"{name:<17}{'-':>10}  {found['failed']}"
    reference = contenders.get(REFERENCE)
    cost = found["median"] / (case["items"] if case["per_item"] else 1)
    of_limit = ratio(contenders.get("limit"), found, "median")
    cpu = ratio(found, reference, "cpu") if case["measure"] == "seconds" else None
    spread = (found["high"] - found["low"]) / found["median"]
    return (
        f"{name:<17}{format_cost(cost, case['measure']):>10}"
        f"{format_ratio(ratio(reference, found, 'median'), '.2f'):>10}"
        f"{format_ratio(of_limit, '.1%'):>10}{format_ratio(cpu, '.2f'):>8}"
        f"{spread:>9.0%}{len(found['values']):>8}"
    )


def print_head(document: Document) -> None:
    changed = " with changes" if document["changed"] else ""
    print(f"{document['processor']}, {document['cores']} cores, Linux {document['kernel']}")
    print(f"Python {document['python']} ({document['python_compiler']}), {document['compiler']}")
    print(f"commit {document['commit'] or 'unknown'}{changed}, load {document['load']:.2f}")
    for name, found in document["peers"].items():
        state = found.get("version") or f"not run: {found['missing']}"
        print(f"{name:<17}{PEERS[name].about}: {state}")
    print(f"\n{LEGEND}\n\n{HEADER}")


def print_case(name: str, case: dict[str, Any]) -> None:
    kind = f"per item of {case['items']:,}" if case["per_item"] else "in total"
    print(f"\n{case['about']}; {kind}")
    print(f"  limit: {LIMITS[case['limit']].about}")
    for contender in case["contenders"]:
        print(f"{name:<23}{line_of(contender, case)}", flush=True)


def failures(document: Document) -> list[str]:
    """All wrong results, and every other failure of cpool or a limit."""
    return [
        f"{name}: {contender}: {found['failed']}"
        for name, case in document["cases"].items()
        for contender, found in case["contenders"].items()
        if "failed" in found
        and (contender in (SUBJECT, "limit") or found["failed"].startswith("WrongResult"))
    ]
