from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

from datasync_bench import processes


def test_looking_at_processes_is_no_part_of_their_time(monkeypatch, tmp_path):
    """The sampler may take its time to end: the programs have ended before it."""
    now = [0.0]
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now[0])
    stop = processes.Sampler.stop

    def slow_stop(self):
        stop(self)
        now[0] += 1000

    monkeypatch.setattr(processes, "time", clock)
    monkeypatch.setattr(processes.Sampler, "stop", slow_stop)
    usage = processes.run(
        [[sys.executable, "-c", ""]], env=os.environ, cwd=tmp_path, log=tmp_path / "log"
    )
    assert now == [1000.0]
    assert usage.seconds == 0.0
