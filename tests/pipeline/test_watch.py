"""What somebody sees who looks at a load from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from datasync_sandbox.testing import running_api

from tests.pipeline.pipeline_helpers import KEY, TAP, TARGET, Database, pipeline_env

PATIENCE = "4"


def _check(env: dict[str, str]) -> tuple[int, str]:
    command = [Path(sys.executable).parent / "datasync-monitor", "check", "--patience", PATIENCE]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout


def _wait_for(env: dict[str, str], code: int) -> str:
    """Ask until the check answers so; a load that never does ends the test by its last answer."""
    for _ in range(120):
        found, said = _check(env)
        if found == code:
            return said
        time.sleep(0.5)
    return f"still {found}: {said}"


def test_a_tap_that_has_stopped_is_seen(database: Database, tmp_path: Path) -> None:
    """Moving is healthy, SIGSTOP is stuck, SIGCONT heals it, and the end is healthy."""
    with running_api(events=600, limit=2, window=2.0, key=KEY) as api:
        env = pipeline_env(api, database, tmp_path)
        assert _check(env)[0] in {0, 2}
        tap_config, target_config = tmp_path / "tap.json", tmp_path / "target.json"
        config = {"api_url": api.url, "api_key": api.key, "page_size": 20}
        tap_config.write_text(json.dumps(config))
        target_config.write_text(json.dumps(database.target_config()))
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
                assert _wait_for(env, 0).split(":")[0] in {"running", "waiting"}
                tap.send_signal(signal.SIGSTOP)
                assert "stuck" in _wait_for(env, 1)
                tap.send_signal(signal.SIGCONT)
                assert "still" not in _wait_for(env, 0)
                assert tap.wait() == target.wait() == 0
            finally:
                # One that has stopped would be waited for without end.
                tap.kill()
                target.kill()
        assert "finished" in _wait_for(env, 0)
