"""The hub's definition of the tap agrees with the tap, and works in an empty project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasync_sandbox.testing import ApiOptions, running_api
from packaging_helpers import ROOT, Project
from tap_datasync.config import SETTINGS

FILE = ROOT / "hub" / "extractors" / "tap-datasync" / "datasync.yml"
DEFINITION: dict[str, Any] = yaml.safe_load(FILE.read_text())
# The hub's name for each kind of setting (meltano/hub, schemas/common/base_setting.schema.json).
KINDS = {"string": "string", "integer": "integer", "number": "decimal"}

EMPTY = """\
version: 1
default_environment: dev
project_id: empty
send_anonymous_usage_stats: false
environments:
- name: dev
plugins:
  loaders:
  - name: target-jsonl
    variant: andyh1203
    namespace: target_jsonl
    pip_url: target-jsonl==0.1.4
    executable: target-jsonl
    settings:
    - name: destination_path
    - name: do_timestamp_file
      kind: boolean
    config:
      destination_path: out
      do_timestamp_file: false
"""


def test_capabilities_match_tap() -> None:
    about = subprocess.run(
        [Path(sys.executable).parent / "tap-datasync", "--about", "--format=json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert sorted(json.loads(about.stdout)["capabilities"]) == DEFINITION["capabilities"]


@pytest.mark.parametrize(("name", "declared"), SETTINGS.to_dict()["properties"].items())
def test_settings_match_tap(name: str, declared: dict[str, Any]) -> None:
    offered = next(setting for setting in DEFINITION["settings"] if setting["name"] == name)
    assert offered["description"] == declared["description"]
    assert offered.get("value") == declared.get("default")
    assert offered.get("sensitive", False) == declared.get("secret", False)
    kinds = declared["type"] if isinstance(declared["type"], list) else [declared["type"]]
    assert offered["kind"] in {KINDS[kind] for kind in kinds if kind != "null"}


def test_required_settings_are_validated() -> None:
    assert DEFINITION["settings_group_validation"] == [["api_url", "api_key"]]


@pytest.mark.slow
def test_loads_in_empty_project_with_another_target(tmp_path: Path) -> None:
    home = tmp_path / "empty"
    home.mkdir()
    (home / "meltano.yml").write_text(EMPTY)
    # The tap is not on PyPI yet, so the checkout is installed.
    local = FILE.read_text().replace(
        "pip_url: tap-datasync\n", f"pip_url: {ROOT / 'tap-datasync'}\n"
    )
    reference = tmp_path / "datasync.yml"
    reference.write_text(local)
    project = Project.empty(home)
    project.meltano("add", "tap-datasync", "--plugin-type=extractor", f"--from-ref={reference}")
    project.meltano("install", "loader", "target-jsonl")
    with running_api(ApiOptions(port=0, events=7000)) as api:
        settings = {"TAP_DATASYNC_API_URL": api.url, "TAP_DATASYNC_API_KEY": api.key}
        project.meltano("run", "tap-datasync", "target-jsonl", **settings)
        expected = {row.id for row in api.model.feed.rows()}
    lines = (home / "out" / "events.jsonl").read_text().splitlines()
    assert len(lines) == 7000
    assert {json.loads(line)["id"] for line in lines} == expected
    state = json.loads(project.meltano("state", "get", "dev:tap-datasync-to-target-jsonl").stdout)
    assert state["singer_state"]["bookmarks"]["events"]["cursor"] is None
    assert state["singer_state"]["bookmarks"]["events"]["high_watermark"]
