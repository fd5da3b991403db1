"""Keeps the import of the main module in workers from starting the program's server again.

With spawn and forkserver a worker imports the program's main module; a fork server that preloads
`__main__` (the default from 3.13.8 and 3.14.1 on) imports it as well. Without the guard `if
__name__ == "__main__":` such an import runs the program again. A server would start a second time,
and the import would never end. So listening on a socket raises an error during the import.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

_REASON = (
    "The program's main module was about to start a second server, on {}, in a process of a pool: "
    "with the start methods spawn and forkserver each process imports the main module first, which "
    "runs its top-level code again. Put the code that starts the server below\n\n"
    "    if __name__ == '__main__':\n"
)


def _is_by_an_import(frame: FrameType | None) -> bool:
    """Does the call come from a module that the main module imports, not from the main module?"""
    while frame is not None:
        if frame.f_globals.get("__name__") == "__mp_main__":
            return False
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def no_second_server() -> Iterator[None]:
    """While the main module is imported, its `socket.listen()` raises `RuntimeError`."""
    kind: Any = socket.socket

    def listen(self: Any, *args: Any) -> None:
        if not _is_by_an_import(sys._getframe(1)):
            raise RuntimeError(_REASON.format(self.getsockname()))
        own(self, *args)

    own = kind.listen
    is_inherited = "listen" not in vars(kind)
    kind.listen = listen
    try:
        yield
    finally:
        if vars(kind).get("listen") is listen and is_inherited:
            del kind.listen
        elif vars(kind).get("listen") is listen:
            kind.listen = own


def watch_the_server() -> None:
    """In a fork server, before it preloads modules: guard its import of the main module as well."""
    from multiprocessing import spawn as typed

    spawn: Any = typed
    import_main = spawn.import_main_path

    def import_main_path(path: str) -> None:
        spawn.import_main_path = import_main
        with no_second_server():
            import_main(path)

    spawn.import_main_path = import_main_path
