"""Draws a run as SVG files. Only this module needs matplotlib."""

import importlib
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, REFERENCE, SUBJECT
from benchmarks.results import Document, measured

# Colours for all kinds of colour vision, most of them Okabe and Ito's. A contender has the same
# colour in every plot. Those that do not run by default are in none.
COLOURS = dict(
    zip(
        [*(name for name, peer in PEERS.items() if peer.by_default), "limit"],
        (
            *("#d55e00", "#000000", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
            *("#882255", "#999999"),
        ),
        strict=True,
    )
)
MESSAGES = (
    "apply",
    "map",
    "map_dicts",
    "starmap",
    "starmap_async",
    "imap",
    "imap_unordered",
    "burst",
)
STARTED = ("apply_spawn", "map_spawn", "apply_forkserver", "map_forkserver")
THREADS = ("threads_apply", "threads_map", "threads_imap", "threads_burst", "threads_50us")
PER_ITEM = (*MESSAGES, *STARTED, *THREADS, "tasks_50us", "busy_main")
IN_ALL = ("one_slow", "uneven", "bytes_64mb", "start_end")


def load_matplotlib() -> Any:
    """matplotlib.pyplot, configured so that the same data gives the same file."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cpool", "svg.fonttype": "none", "font.size": 9})
    return importlib.import_module("matplotlib.pyplot")


def contenders_of(document: Document, cases: list[str]) -> list[str]:
    return [name for name in COLOURS if any(measured(document, case, name) for case in cases)]


def save(plt: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return path


def draw_costs(plt: Any, document: Document, cases: list[str], label: str, path: Path) -> Path:
    """One row for each case, and in it a dot with quartiles for each contender."""
    names = contenders_of(document, cases)
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.5 * len(cases)))
    for place, name in enumerate(names):
        points = []
        for row, case in enumerate(cases):
            found = measured(document, case, name)
            if found is None:
                continue
            facts = document["cases"][case]
            scale = 1e6 / facts["items"] if facts["per_item"] else 1e3
            y = row + 0.7 * (
                (place + 0.5) / len(names) - 0.5
            )  # offset, so that equal values do not overlap
            low, median, high = (found[key] * scale for key in ("low", "median", "high"))
            points.append((median, y, median - low, high - median))
        medians, rows, left, right = zip(*points, strict=True)
        style = {"fmt": "|" if name == "limit" else "o", "markersize": 5, "color": COLOURS[name]}
        axes.errorbar(medians, rows, xerr=(left, right), label=name, **style)
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    for row in range(1, len(cases)):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return save(plt, figure, path)


def draw_ratios(plt: Any, document: Document, path: Path) -> Path:
    """The speed of cpool relative to the standard library's pool, in every timed case."""
    rows = []
    for case, facts in document["cases"].items():
        ours, theirs = measured(document, case, SUBJECT), measured(document, case, REFERENCE)
        if ours and theirs and facts["measure"] == "seconds":
            rows.append((case, theirs["median"] / ours["median"]))
    cases, ratios = [case for case, _ in rows], [value for _, value in rows]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.26 * len(rows)))
    widths = [value - 1 for value in ratios]
    bars = axes.barh(cases, widths, left=1, color=COLOURS[SUBJECT])  # to the left if slower
    axes.bar_label(bars, [f" {value:.1f}" for value in ratios])
    axes.axvline(1, color="#000000", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the pool of multiprocessing of the same kind")
    return save(plt, figure, path)


def draw_sizes(plt: Any, document: Document, cases: list[str], path: Path) -> Path:
    """The cost of a pool by its number of workers."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in contenders_of(document, cases):
        points = []
        for case in cases:
            found = measured(document, case, name)
            if found:
                points.append((document["cases"][case]["workers"], found["median"] * 1e3))
        style = "--" if name == "limit" else "-"
        axes.plot(*zip(*points, strict=True), style, marker="o", label=name, color=COLOURS[name])
    sizes = [document["cases"][case]["workers"] for case in cases]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_yscale("log")
    axes.set_xlabel("workers")
    axes.set_ylabel("create, one map of 1,000 ints, close, join: ms")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return save(plt, figure, path)


def draw(document: Document, folder: Path) -> list[Path]:
    """Draw all plots for which there is data, and return their files."""
    plt = load_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    ran = [case for case in document["cases"] if contenders_of(document, [case])]
    per_item = [case for case in PER_ITEM if case in ran]
    in_all = [case for case in IN_ALL if case in ran]
    sizes = [case for case in ran if case.startswith("pool_of_")]
    drawn = []
    if per_item:
        drawn.append(draw_costs(plt, document, per_item, "µs per item", folder / "per_item.svg"))
    if in_all:
        drawn.append(draw_costs(plt, document, in_all, "ms in total", folder / "in_all.svg"))
    if any(measured(document, case, SUBJECT) for case in ran):
        drawn.append(draw_ratios(plt, document, folder / "ratios.svg"))
    if len(sizes) > 1:
        drawn.append(draw_sizes(plt, document, sizes, folder / "sizes.svg"))
    return drawn
