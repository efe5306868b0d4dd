"""Print Meltano's JSON schema of meltano.yml, with `env_aliases` added.

Meltano reads `env_aliases` (`meltano/core/setting_definition.py`, 4.4.1), but its schema does not
allow it.
"""

from __future__ import annotations

import json
import sys
from importlib import resources
from typing import Any


def schema() -> dict[str, Any]:
    """Return the schema with the missing property."""
    text = resources.files("meltano.schemas").joinpath("meltano.schema.json").read_text()
    document: dict[str, Any] = json.loads(text)
    document["$defs"]["base_setting"]["properties"].setdefault(
        "env_aliases", {"type": "array", "items": {"type": "string"}}
    )
    return document


if __name__ == "__main__":
    json.dump(schema(), sys.stdout)
