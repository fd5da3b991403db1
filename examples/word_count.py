"""Counts the words in the source files of Python's standard library in three ways, with times.

A serial loop, the standard library's pool and cpool's pool do the same work on the same files. The
program fails if their counts differ.
"""

import multiprocessing
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from cpool import Pool, default_processes

# A run of letters: snake_case is split into its parts; numbers and operators do not count.
WORD = re.compile(r"[^\W\d_]+")
NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}


def source_files() -> list[Path]:
    """The Python files of the library in a fixed order, without installed packages."""
    library = Path(sysconfig.get_path("stdlib"))
    return sorted(
        path
        for path in library.rglob("*.py")
        if path.is_file() and NOT_THE_LIBRARY.isdisjoint(path.relative_to(library).parts)
    )


def batches(files: list[Path]) -> list[list[Path]]:
    """Twenty files for each task, so that the parent has few counts to add up."""
    return [files[start : start + 20] for start in range(0, len(files), 20)]


def count_words(files: list[Path]) -> Counter[str]:
    """The words of some files, in lower case. Some of the library's test files are not UTF-8."""
    count: Counter[str] = Counter()
    for path in files:
        count.update(WORD.findall(path.read_text(encoding="utf-8", errors="replace").lower()))
    return count


def add_up(counts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def serial(files: list[Path]) -> Counter[str]:
    return add_up(map(count_words, batches(files)))


def stdlib_pool(files: list[Path]) -> Counter[str]:
    with multiprocessing.get_context("fork").Pool(default_processes()) as pool:
        return add_up(pool.imap_unordered(count_words, batches(files)))


def cpool_pool(files: list[Path]) -> Counter[str]:
    with Pool(default_processes()) as pool:
        return add_up(pool.imap_unordered(count_words, batches(files)))


def timed(name: str, way: Callable[[list[Path]], Counter[str]], files: list[Path]) -> Counter[str]:
    start = time.perf_counter()
    total = way(files)
    print(f"{name:<24}{time.perf_counter() - start:6.2f} s", flush=True)
    return total


def main() -> None:
    files = source_files()
    # Read everything once into the page cache, so that the first way does not pay for the disk.
    size = sum(len(path.read_bytes()) for path in files)
    print(f"{len(files):,} files, {size / 1e6:.1f} MB, {default_processes()} processes", flush=True)

    totals = [
        timed("serial loop", serial, files),
        timed("multiprocessing.Pool", stdlib_pool, files),
        timed("cpool.Pool", cpool_pool, files),
    ]
    if totals[1] != totals[0] or totals[2] != totals[0]:
        sys.exit("The counts differ.")

    total = totals[0]
    print(f"The three counts are equal: {total.total():,} words, {len(total):,} different ones.")
    # Sort ties alphabetically, so that the output does not depend on the order of results.
    for word, count in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:10]:
        print(f"{count:9,}  {word}")


if __name__ == "__main__":
    main()
