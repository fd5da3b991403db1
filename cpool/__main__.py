"""python -m cpool SCRIPT [ARG...], python -m cpool -m MODULE [ARG...]: run a program on cpool."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
import types
from importlib.machinery import ModuleSpec

from . import install

_USAGE = """\
usage: python -m cpool SCRIPT [ARG...]
       python -m cpool -m MODULE [ARG...]

Runs an unchanged program with cpool in the place of multiprocessing.pool."""


def _run(code: types.CodeType, path: str, spec: ModuleSpec | None) -> None:
    # A module that stays, since workers and exit handlers look functions up in it; under both
    # names, as multiprocessing has it.
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=builtins, __spec__=spec)
    if spec is not None:
        module.__dict__.update(__package__=spec.parent, __loader__=spec.loader)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, module.__dict__)


def _run_script(path: str) -> None:
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec")
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    _run(code, path, None)


def _run_module(name: str) -> None:
    sys.path[0] = os.getcwd()
    try:
        # As `python -m` finds it; the public run_module() would take the module away at the end.
        _, spec, code = runpy._get_module_details(name)  # type: ignore[attr-defined]
    except ImportError as exc:
        raise SystemExit(f"{sys.executable}: {exc}") from None
    sys.argv[0] = spec.origin
    _run(code, spec.origin, spec)


def main() -> None:
    args = sys.argv[1:]
    if args[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return
    by_module = args[:1] == ["-m"]
    if by_module:
        del args[0]
    if not args or (args[0].startswith("-") and not by_module):
        print(_USAGE, file=sys.stderr)
        raise SystemExit(2)
    sys.argv[:] = args
    install()
    if by_module:
        _run_module(args[0])
    else:
        _run_script(args[0])


if __name__ == "__main__":
    main()
