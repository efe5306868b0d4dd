"""Print the schema of `meltano.yml` that comes with Meltano, with what it lacks.

Meltano reads `env_aliases` (`meltano/core/setting_definition.py`, 4.4.1), and a
project that wants short names in `.env` cannot do without; its schema does not
know the word.
"""

from __future__ import annotations

import json
import sys
from importlib import resources
from typing import Any


def schema() -> dict[str, Any]:
    """Read the schema and add what is missing."""
    text = resources.files("meltano.schemas").joinpath("meltano.schema.json").read_text()
    document: dict[str, Any] = json.loads(text)
    document["$defs"]["base_setting"]["properties"].setdefault(
        "env_aliases", {"type": "array", "items": {"type": "string"}}
    )
    return document


if __name__ == "__main__":
    json.dump(schema(), sys.stdout)
