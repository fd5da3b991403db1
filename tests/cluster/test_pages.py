"""The programs in the documentation of clusters run, on the cluster of these tests."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from typing import Any

import pages
import pytest

PROGRAMS = [program for program in pages.programs() if program.needs_cluster]
ADDRESSES = ("tcp://scheduler:8786", "tcp://scheduler-machine:8786")


class StandIn:
    """Takes the place of a cluster of another kind, such as one under SLURM."""

    real: Any = None

    def __init__(self, *args: Any, **parameters: Any) -> None: ...

    def scale(self, jobs: int) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_prints_what_the_page_says(
    program: pages.Program, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpool.distributed import Pool

    address = cluster.scheduler_address
    monkeypatch.setattr(StandIn, "real", cluster)
    for name in ("dask_jobqueue", "dask_kubernetes", "dask_kubernetes.operator"):
        module = types.ModuleType(name)
        vars(module).update(SLURMCluster=StandIn, KubeCluster=StandIn)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("distributed.SSHCluster", StandIn)
    # Programs use the default method, whose servers would take most of the time here.
    monkeypatch.setitem(Pool.__init__.__kwdefaults__, "context", "fork")
    source = program.source
    for shown in ADDRESSES:
        source = source.replace(shown, address)
    code = compile(source, program.name, "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        # Functions of the program are sent by value, as those of any main module.
        exec(code, {"__name__": "__main__", "__builtins__": __builtins__})
    assert out.getvalue() == (program.output or "")


def test_the_pages_have_programs() -> None:
    assert len(PROGRAMS) > 4
