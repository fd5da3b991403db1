"""Compares a run with a saved one: what got slower, beyond noise.

multiprocessing and the limit are the controls: their code did not change between the runs, so
changes of their times are drift of the machine. cpool got slower in a case if its new lower
quartile is above the old upper quartile, and its median grew by TOLERANCE more than that of either
control, and by TOLERANCE at least.
"""

from benchmarks.peers import REFERENCE, SUBJECT
from benchmarks.results import Document, measured

TOLERANCE = 0.10
SAME = ("quick", "processor", "cores", "python")


def differences(baseline: Document, document: Document) -> list[str]:
    """Why the two runs cannot be compared."""
    return [
        f"{key}: {baseline[key]} then, {document[key]} now"
        for key in SAME
        if baseline[key] != document[key]
    ]


def factor(baseline: Document, document: Document, case: str, contender: str) -> float | None:
    """The new median as a multiple of the old one."""
    old, new = measured(baseline, case, contender), measured(document, case, contender)
    return float(new["median"] / old["median"]) if old and new else None


def judge(baseline: Document, document: Document, case: str) -> str:
    old, new = measured(baseline, case, SUBJECT), measured(document, case, SUBJECT)
    if old is None:
        return "not in the baseline"
    if new is None:
        return "FAILED"
    moved = new["median"] / old["median"]
    drifts = [factor(baseline, document, case, control) for control in (REFERENCE, "limit")]
    drift = [1.0, *(value for value in drifts if value is not None)]
    if new["low"] > old["high"] and moved > max(drift) * (1 + TOLERANCE):
        return "SLOWER"
    if new["high"] < old["low"] and moved < min(drift) / (1 + TOLERANCE):
        return "faster"
    return "same"


def behind(document: Document) -> list[str]:
    """The pains in which cpool is slower than multiprocessing, beyond noise."""
    found = []
    for case in document["cases"]:
        ours, theirs = measured(document, case, SUBJECT), measured(document, case, REFERENCE)
        if case.startswith("pains_") and ours and theirs and ours["low"] > theirs["high"]:
            found.append(f"{case}: {theirs['median'] / ours['median']:.2f} times as fast")
    return found


def print_comparison(baseline: Document, document: Document) -> bool:
    """Print the table. True if cpool got slower, or failed, in some case."""
    names = (SUBJECT, REFERENCE, "limit")
    print(f"\nNew medians as multiples of those of {baseline['time']}, {baseline['commit']}")
    # Show the load: more rounds do not average out other work on the machine.
    print(f"(load {baseline['load']:.1f} then, {document['load']:.1f} now):\n")
    print(f"{'case':<18}" + "".join(f"{name:>16}" for name in names))
    worse = False
    for case in document["cases"]:
        factors = [factor(baseline, document, case, name) for name in names]
        verdict = judge(baseline, document, case)
        cells = "".join(
            f"{'-' if value is None else format(value, '.2f'):>16}" for value in factors
        )
        print(f"{case:<18}{cells}  {verdict}")
        worse = worse or verdict in ("SLOWER", "FAILED")
    return worse
