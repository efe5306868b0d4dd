"""What the Compose files and the Dockerfile promise, read as data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasync_ingestion.config import NAMES

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, dict[str, Any]] = {
    f"{path.name}: {name}": service
    for path in (ROOT / "docker-compose.yml", *(ROOT / "docker").glob("*.yml"))
    for name, service in yaml.safe_load(path.read_text())["services"].items()
}
IMAGES_OF_OTHERS = ("postgres:", "prom/prometheus:")
OURS = {
    name: service
    for name, service in SERVICES.items()
    if not service.get("image", "").startswith(IMAGES_OF_OTHERS)
}
INGESTION = SERVICES["docker-compose.yml: ingestion"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
# The last instruction of each kind: the one that counts.
STAGES = {
    name: dict(re.findall(r"^([A-Z]+) +(.+)$", text, re.MULTILINE))
    for name, text in re.findall(
        r"^FROM \S+ AS (\S+)$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL
    )
}


def test_ports_are_published_on_loopback_only() -> None:
    ports = [str(port) for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [name for name, service in SERVICES.items() if "network_mode" in service] == []


def test_secrets_are_read_from_the_environment_or_a_file_and_have_no_default() -> None:
    values = {
        re.sub(r"\$\{\w+:[-+]|\}", "", value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if re.search("KEY|PASSWORD", name)
    }
    assert values == {"", "/run/db/password", "/run/secrets/api_key"}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_restricted(name: str) -> None:
    service = OURS[name]
    assert (service["init"], service["read_only"], service["cap_drop"]) == (True, True, ["ALL"])
    assert "privileged" not in service
    assert "cap_add" not in service


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_reaches_the_load(name: str) -> None:
    assert INGESTION["environment"][name].startswith(f"${{{name}:-")


@pytest.mark.parametrize("stage", ["dashboard", "pipeline"])
def test_images_run_without_privileges_and_without_a_shell_in_between(stage: str) -> None:
    instructions = STAGES[stage]
    assert instructions["USER"] == "10001:10001"
    assert instructions["ENTRYPOINT"].startswith('["')
    assert ' CMD ["' in instructions["HEALTHCHECK"]


def test_no_script_of_the_dockerfile_depends_on_its_mode() -> None:
    """A checkout may have lost the modes: as an archive, or on a file system without them."""
    run = re.findall(r"^(?:RUN|ENTRYPOINT|HEALTHCHECK) .*", DOCKERFILE, re.MULTILINE)
    words = re.sub(r'[\[\]",]', " ", "\n".join(run))
    assert set(re.findall(r"(\S+) +\S+\.sh\b", words)) == {"sh"}
