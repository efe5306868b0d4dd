"""Write the lock file of target-postgres from its `--about`.

Meltano reads the definition of a plugin of the hub from a lock file, or else
requests it from the hub. This project does not contact the hub: the lock is
generated from `target-postgres --about`, in the version of
`requirements/lock.txt`.

    .venv/bin/target-postgres --about --format=json |
        python3 plugins/lock.py > plugins/loaders/target-postgres--meltanolabs.lock
"""
# ruff: noqa: INP001 - a script in a folder of Meltano's

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# The target's schema does not mark all secrets, and Meltano redacts only marked settings.
SENSITIVE = frozenset(
    {
        "password",
        "sqlalchemy_url",
        "ssl_client_private_key",
        "ssh_tunnel.private_key",
        "ssh_tunnel.private_key_password",
    }
)
KINDS = ("integer", "boolean", "object", "array")


def settings(properties: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """Turn a JSON schema's properties into Meltano's settings, nested ones with dots."""
    for key, schema in properties.items():
        name = prefix + key
        # An object whose keys are names of streams (stream_maps) stays one setting.
        if schema.get("properties") and not isinstance(schema.get("additionalProperties"), dict):
            yield from settings(schema["properties"], f"{name}.")
            continue
        setting: dict[str, Any] = {"name": name}
        kind = next((kind for kind in schema.get("type", []) if kind in KINDS), "string")
        if "enum" in schema:
            kind = "options"
            setting["options"] = [
                {"label": value, "value": value} for value in schema["enum"] if value is not None
            ]
        setting["kind"] = kind
        # A default inside an object would make Meltano send the object, used or not.
        if schema.get("default") is not None and not prefix:
            setting["value"] = schema["default"]
        setting["label"] = (
            schema.get("title") or name.replace("_", " ").replace(".", ": ").capitalize()
        )
        if "description" in schema:
            setting["description"] = " ".join(schema["description"].split())
        if name in SENSITIVE:
            setting["sensitive"] = True
        yield setting


def lock(about: dict[str, Any]) -> dict[str, Any]:
    """Return Meltano's definition of the target from its `--about`."""
    return {
        "plugin_type": "loaders",
        "name": "target-postgres",
        "namespace": "target_postgres",
        "variant": "meltanolabs",
        "label": "Postgres",
        "docs": "https://github.com/MeltanoLabs/target-postgres",
        "repo": "https://github.com/MeltanoLabs/target-postgres",
        "executable": "target-postgres",
        "description": "PostgreSQL database loader",
        "capabilities": about["capabilities"],
        "settings": list(settings(about["settings"]["properties"])),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(lock(json.load(sys.stdin)), indent=2) + "\n")
