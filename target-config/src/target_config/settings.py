"""The stock settings, with the defaults that this layer needs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from target_postgres.target import TargetPostgres

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS: dict[str, Any] = {
    # The tables lie where everybody looks for them.
    "default_target_schema": "public",
    "use_copy": True,
    # The tables have no _sdc columns, and activate_version cannot do without them.
    "add_record_metadata": False,
    "activate_version": False,
    # The tap has checked the page; checking each record again takes half of the loader's time.
    "validate_records": False,
    # More than a page, so that a page is one batch: the STATE after it is what writes it.
    "batch_size_rows": 10_000,
}


def config_jsonschema() -> dict[str, Any]:
    """Return the stock target's settings with our defaults; none is added, none is taken away."""
    stock: dict[str, Any] = {"properties": dict(TargetPostgres.config_jsonschema["properties"])}
    TargetPostgres.append_builtin_config(stock)
    # Copied last: the SDK's own settings are put in as they are, one object for all targets.
    schema = copy.deepcopy(TargetPostgres.config_jsonschema | stock)
    for name, value in DEFAULTS.items():
        schema["properties"][name]["default"] = value
    return schema


def schema_of(config: Mapping[str, Any]) -> str:
    """Return the schema of the tables; null and an empty name mean the default too."""
    return str(config.get("default_target_schema") or DEFAULTS["default_target_schema"])
