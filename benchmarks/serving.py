"""Contenders in processes of their own, which take turns; they speak JSON lines over their pipes.

Standard library only: every interpreter can serve.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def serve(compile_seconds: float, run_round: Callable[[], None], steps: int, **facts: float) -> None:
    """Answers with seconds: first to compile, with facts; then of a step, whenever a line asks, with those
    that the processor worked for it."""
    print(json.dumps({"seconds": compile_seconds, **facts}), flush=True)
    while sys.stdin.readline().strip() == "go":
        start, work = time.perf_counter(), time.process_time()
        run_round()
        taken = {"seconds": time.perf_counter() - start, "processor": time.process_time() - work}
        print(json.dumps({name: value / steps for name, value in taken.items()}), flush=True)


def against(times: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """The median and the range over rounds of (time / the other's time in the same round)."""
    ratios = [time / other for time, other in zip(times, others, strict=True)]
    return {"ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)]}


class Contender:
    """A process that serves one contender; ``ready`` waits until it has compiled."""

    def __init__(self, *command: str) -> None:
        self._command = command
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.facts: dict[str, float] = {}
        self.compile_seconds = float("nan")
        self.step_seconds: list[float] = []
        self.processor_seconds: list[float] = []

    def ready(self) -> Contender:
        self.facts = self._answer()
        self.compile_seconds = self.facts.pop("seconds")
        return self

    def round(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.step_seconds.append(answer["seconds"])
        self.processor_seconds.append(answer["processor"])

    def close(self) -> None:
        self._process.communicate("stop\n")

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"seconds"'):  # libraries print, too
                return dict(json.loads(line))
        raise RuntimeError(f"{' '.join(self._command)} ended without an answer")
