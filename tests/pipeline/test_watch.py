"""The health check during a load."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from datasync_sandbox.testing import running_api

from tests.pipeline.pipeline_helpers import KEY, TAP, TARGET, pipeline_env

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.helpers import Database

STALL_TIMEOUT = "4"


def check(env: Mapping[str, str]) -> tuple[int, str]:
    program = Path(sys.executable).parent / "datasync-monitor"
    command = [program, "check", "--stall-timeout", STALL_TIMEOUT]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout


def wait_for(env: Mapping[str, str], word: str) -> None:
    """Check until the report contains a word."""
    for _ in range(120):
        _, report = check(env)
        if word in report:
            return
        time.sleep(0.5)
    message = f"not {word}: {report}"
    raise AssertionError(message)


def test_stopped_tap_is_reported_as_stuck(database: Database, tmp_path: Path) -> None:
    """A load in progress is healthy, SIGSTOP makes it stuck, and SIGCONT healthy again."""
    with running_api(events=400, limit=2, window=1.0, key=KEY) as api:
        env = pipeline_env(api, database)
        tap_config, target_config = tmp_path / "tap.json", tmp_path / "target.json"
        config = {"api_url": api.url, "api_key": api.key, "page_size": 20}
        tap_config.write_text(json.dumps(config))
        target_config.write_text(json.dumps(database.config))
        with (
            subprocess.Popen(
                [TAP, "--config", tap_config], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as tap,
            subprocess.Popen(
                [TARGET, "--config", target_config],
                stdin=tap.stdout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as target,
        ):
            try:
                while api.stats()["pages"] < 3:
                    assert tap.poll() is None
                    time.sleep(0.1)
                wait_for(env, " events")
                assert check(env)[0] == 0
                tap.send_signal(signal.SIGSTOP)
                wait_for(env, "stuck")
                assert check(env)[0] == 1
                tap.send_signal(signal.SIGCONT)
                assert tap.wait() == target.wait() == 0
            finally:
                # Waiting for a stopped process would never end.
                tap.kill()
                target.kill()
        wait_for(env, "finished")
        assert check(env)[0] == 0
