"""The order of the files of csrc/, a check of it, and a picture of the folders.

    python tests/order.py                       print what each folder uses
    python tests/order.py --svg docs/layers.svg draw it

Folders stand lowest first, and so do the files in each folder. A file may use only what comes
before it: it includes no later header, and names no function that a later file defines. Files
that are one unit are joined by "+" and have one place; a header belongs to the unit of its name.
"""

import argparse
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from svg import arrow, rect, svg, text

TOP = next(path for path in Path(__file__).parents if (path / "csrc").is_dir())

# None: the files of this folder have no order yet; what the folder uses is still checked.
ORDER: dict[str, str | None] = {
    "core/base": "base clock lock mem buf",
    "core/os": "fd poller+poller_epoll+poller_poll proc",
    "core/share": "sheet region loan sealed heap parts",
    "core/link": "wire board func task worker serve",
    "core/pool": "job tallies trace state+ref tally wake plan turns flow jobs+func sched watch act"
    " threads spin drive pool",
    "py/base": "state word dict list name depth error imports argument timeout engine work",
    "py/value": "arena tags kind seen writer reader repeats gather constant number known spare view"
    " text array named standard reducers replaced uses plan encode+encoder+reduce"
    " decode+decoder+rebuild pickle body run",
    "py/task": "mode input pull call refs func source batch feed",
    "py/job": "life options failure settle wait callback result stream future lane condition",
    "py/worker": "stack values serve thread worker",
    "py/engine": "late begin kept submit share engine method module",
}

COMMENT_OR_LITERAL = re.compile(
    r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)
INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]+\"(?:csrc/)?([^\"]+)\"", re.MULTILINE)
# As clang-format leaves it: the name of a function starts a line, under its return type.
DEFINITION = re.compile(r"^(\w.*)\n((?:cp|py)_\w+)\([^;{}]*\)\s*\n\{", re.MULTILINE)
PROTOTYPE = re.compile(r"^(?!return\b)\w[\w \t*]*?\b((?:cp|py)_\w+)\([^;{}]*\)\s*;", re.MULTILINE)
NAME = re.compile(r"(?<![\w.>])(?<!struct )(?<!enum )(?<!union )(?:cp|py)_\w+")


def without_comments(text: str) -> str:
    """Return the text with comments and literals emptied, line by line the same."""
    return COMMENT_OR_LITERAL.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


@dataclass(frozen=True)
class Place:
    """Where a unit stands: the folder's place in the order, and the unit's in its folder."""

    folder: int
    unit: int


@dataclass(frozen=True)
class Use:
    """A file uses another one, in this line."""

    user: str
    line: int
    used: str
    how: str


class Sources:
    """The files of csrc/: {"py/base/error.c": its text}."""

    def __init__(
        self, texts: Mapping[str, str], order: Mapping[str, str | None] | None = None
    ) -> None:
        self.texts = texts
        self.order = ORDER if order is None else order
        self.code = {name: without_comments(text) for name, text in texts.items()}

    @classmethod
    def read(cls) -> "Sources":
        csrc = TOP / "csrc"
        paths = sorted(csrc.glob("*/*/*.[ch]"))
        return cls({path.relative_to(csrc).as_posix(): path.read_text() for path in paths})

    @cached_property
    def places(self) -> dict[str, Place]:
        """The place of each unit that has one: {"core/os/poller_poll": Place(1, 1)}."""
        places = {}
        for folder_at, (folder, units) in enumerate(self.order.items()):
            for unit_at, unit in enumerate((units or "").split()):
                for stem in unit.split("+"):
                    places[f"{folder}/{stem}"] = Place(folder_at, unit_at)
        return places

    def place(self, name: str) -> Place | None:
        folder, _, file = name.rpartition("/")
        if folder in self.order and self.order[folder] is None:
            return Place(list(self.order).index(folder), 0)
        return self.places.get(f"{folder}/{file.rpartition('.')[0]}")

    @cached_property
    def homes(self) -> dict[str, str]:
        """The file that defines each function; those of one .c file alone are left out."""
        return {
            match[2]: name
            for name, code in self.code.items()
            for match in DEFINITION.finditer(code)
            if name.endswith(".h") or not re.search(r"\bstatic\b", match[1])
        }

    def header(self, user: str, path: str) -> list[str]:
        """Return the files that an include in this file may mean."""
        roots = ["", "core/"] if user.startswith("core/") else ["", "core/", "py/"]
        return [root + path for root in roots if root + path in self.texts]

    def uses(self) -> Iterator[Use]:
        """Yield what the files use, of other units."""
        for user, code in self.code.items():
            for match in INCLUDE.finditer(self.texts[user]):
                for used in self.header(user, match[1])[:1]:
                    yield self.use(user, match.start(1), used, f"includes {used}")
            for match in NAME.finditer(code):
                if (home := self.homes.get(match[0])) is not None and home != user:
                    yield self.use(user, match.start(), home, f"names {match[0]}() of {home}")

    def use(self, user: str, offset: int, used: str, how: str) -> Use:
        return Use(user, self.texts[user].count("\n", 0, offset) + 1, used, how)

    def unplaced(self) -> list[str]:
        """Return what is wrong with the table: files that it lacks, and units without a file."""
        units = {name.rpartition(".")[0] for name in self.texts}
        return [f"{name} has no place" for name in self.texts if self.place(name) is None] + [
            f"{unit} is no file" for unit in self.places if unit not in units
        ]

    def ambiguous(self) -> list[str]:
        return [
            f"{user} includes {match[1]}, which may be any of {found}"
            for user, text in self.texts.items()
            for match in INCLUDE.finditer(text)
            if len(found := self.header(user, match[1])) != 1
        ]

    def strangely_declared(self) -> list[str]:
        """Return the functions that a header declares and another unit defines."""
        return [
            f"{name} declares {match[1]}(), which {home} defines"
            for name, code in self.code.items()
            if name.endswith(".h")
            for match in PROTOTYPE.finditer(code)
            if (home := self.homes.get(match[1])) is not None
            and self.place(home) != self.place(name)
        ]

    def climbing(self, folder: str) -> list[str]:
        """Return the uses by files of this folder that go up, or to a later file of the folder."""
        complaints = []
        for use in self.uses():
            user, used = self.place(use.user), self.place(use.used)
            if user is None or used is None or not use.user.startswith(f"{folder}/"):
                continue
            if (used.folder, used.unit) > (user.folder, user.unit):
                complaints.append(f"csrc/{use.user}:{use.line}: {use.how}, which comes later")
        return complaints

    def graph(self) -> dict[str, list[str]]:
        """Return which other folders each folder uses, lowest first."""
        used: dict[str, set[str]] = {folder: set() for folder in self.order}
        for use in self.uses():
            used[use.user.rpartition("/")[0]].add(use.used.rpartition("/")[0])
        return {
            folder: [other for other in self.order if other in used[folder] - {folder}]
            for folder in self.order
        }


WIDTH, BOX_WIDTH, BOX_HEIGHT, GAP, TOP_MARGIN = 900, 560, 54, 22, 24


def draw(graph: Mapping[str, list[str]], order: Mapping[str, str | None]) -> str:
    """Return an SVG of the folders, highest first, with an arrow to each folder that one uses.

    Arrows within a package are on the right, those from csrc/py to csrc/core on the left.
    """
    folders = list(reversed(list(graph)))
    pitch = BOX_HEIGHT + GAP
    left = (WIDTH - BOX_WIDTH) / 2
    height = 2 * TOP_MARGIN + pitch * len(folders) - GAP
    tops = {folder: TOP_MARGIN + pitch * at for at, folder in enumerate(folders)}
    arrows, boxes = [], []
    for folder, top in tops.items():
        for other in graph[folder]:
            crosses = folder.split("/")[0] != other.split("/")[0]
            steps = (tops[other] - top) // pitch
            if steps == 1:
                path = f"M{WIDTH / 2:g} {top + BOX_HEIGHT}V{tops[other] - 1}"
            else:
                side = -1 if crosses else 1
                x = left if crosses else left + BOX_WIDTH
                # Arrows that span more boxes start higher, bulge further, and end lower.
                start = top + BOX_HEIGHT - 4 - steps * 3
                end = tops[other] + 4 + steps * 3
                bend = x + side * (14 + 22 * steps)
                path = f"M{x:g} {start}C{bend:g} {start} {bend:g} {end} {x + side:g} {end}"
            arrows.append(arrow(path, f"csrc/{folder} uses csrc/{other}"))
        files = textwrap.wrap((order[folder] or "").replace("+", " "), 88)
        boxes += [
            rect(left, top, BOX_WIDTH, BOX_HEIGHT),
            text(WIDTH / 2, top + 17, f"csrc/{folder}", anchor="middle"),
            *(
                text(WIDTH / 2, top + 32 + 14 * row, names, "small", "middle")
                for row, names in enumerate(files)
            ),
        ]
    label = "The folders of csrc, highest first, and which folders each one uses"
    return svg(WIDTH, height, label, arrows + boxes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--svg", type=Path, help="write a picture there")
    path = parser.parse_args().svg
    sources = Sources.read()
    if path is not None:
        path.write_text(draw(sources.graph(), sources.order))
        return
    for folder, used in sources.graph().items():
        print(f"{folder:<10} {' '.join(used)}")


if __name__ == "__main__":
    main()
