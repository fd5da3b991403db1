"""Subinterpreters, by whatever name the running version of CPython has them."""

from __future__ import annotations

import sys
from typing import Any

module: Any
if sys.version_info >= (3, 13):
    import _interpreters as module
else:
    import _xxsubinterpreters as module


class Interpreter:
    """One of its own; `isolated` ones have a GIL of their own from 3.12 on, and must not fork."""

    def __init__(self, isolated: bool) -> None:
        if sys.version_info >= (3, 13):
            self._id = module.create("isolated" if isolated else "legacy")
        else:
            self._id = module.create(isolated=isolated)

    def run(self, source: str) -> None:
        """Run it there, in `__main__`; `RuntimeError` with the text of what it raises."""
        if sys.version_info >= (3, 13):
            failure = module.exec(self._id, source)
            if failure is not None:
                raise RuntimeError(failure.formatted)
        else:
            module.run_string(self._id, source)

    def close(self) -> None:
        module.destroy(self._id)
