"""The gates at which tests hold tasks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import gates
import pytest
from engine import DEADLINE

pytestmark = pytest.mark.better


def test_a_gate_that_was_opened_before_a_task_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test may open the gate and end as soon as a task has reported its arrival."""
    gate = gates.Gate(str(tmp_path))
    entered, ended = threading.Event(), threading.Event()

    def enter(self: Any) -> None:
        report(self)
        entered.set()
        assert ended.wait(DEADLINE)

    report = gates.Gate.enter
    monkeypatch.setattr(gates.Gate, "enter", enter)
    values: list[Any] = []
    task = threading.Thread(target=lambda: values.append(gate.hold("held")))
    task.start()
    assert entered.wait(DEADLINE)
    gate.open()
    gate.close()
    ended.set()
    task.join(DEADLINE)
    assert values == ["held"]
