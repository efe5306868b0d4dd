"""The private code of the SDK that the target uses or overrides has not changed."""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import target_config
from singer_sdk.plugin_base import BaseSingerReader, PluginBase
from singer_sdk.sql import SQLConnector, SQLSink, SQLTarget
from singer_sdk.target_base import Target
from target_postgres.connector import PostgresConnector
from target_postgres.sinks import PostgresSink
from target_postgres.target import TargetPostgres

if TYPE_CHECKING:
    from collections.abc import Callable


def digest(function: Callable[..., Any]) -> str:
    """Hash the source of a function."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


# If one of these fails after an upgrade: read the change, check that our use of it is still right,
# then write the new digest here.
USED: dict[Any, str] = {
    Target._process_record_message: "08aaf4096e2d39e7",
    Target._process_schema_message: "ed6e8449bc8ff234",
    Target._process_activate_version_message: "377950028ca9b3eb",
    Target.drain_all: "1da0109210d345c4",
    Target.drain_one: "97c86cb67c13cf79",
    Target._handle_max_record_age: "5762750ab1035404",
    vars(Target)["invoke"].__func__: "09090ea685c4bda1",
    PluginBase._setup_signal_handlers: "eb4287001bdd7d19",
    BaseSingerReader.listen: "5bdc6bfc69145dcd",
    SQLTarget.add_sqlsink: "15d87e1bbe4bbe20",
    SQLTarget.get_sink: "c035d10e44bdfb32",
    vars(SQLSink)["table_name"].fget: "5c36892e2ec9f3b1",
    vars(SQLConnector)["_engine"].fget: "7b9b7f359d7135f7",
    SQLConnector.create_engine: "718bf15c4e359e15",
    PostgresConnector.get_sqlalchemy_url: "78b44c29e73f0b76",
    PostgresConnector.prepare_table: "28df18bb8516399a",
    vars(PostgresConnector)["jsonschema_to_sql"].func: "829e4f330e387482",
    PostgresSink.setup: "3d287e638c929530",
    PostgresSink.process_batch: "5b80eca8f94eee10",
    PostgresSink.bulk_insert_records: "a6f066d5e83ab869",
    PostgresSink.generate_copy_statement: "41b7e93bec7441cb",
}


@pytest.mark.parametrize(
    ("function", "expected"), USED.items(), ids=lambda value: getattr(value, "__qualname__", "")
)
def test_upstream_is_unchanged(function: Callable[..., Any], expected: str) -> None:
    """The source of each function that an override replaces or uses has the known digest."""
    assert digest(function) == expected


def test_private_hooks_are_used_in_one_module() -> None:
    """No other module uses a private name of the SDK or of the stock target, nor imports any."""
    private = {
        name
        for stock in (TargetPostgres, PostgresSink, PostgresConnector)
        for name in dir(stock)
        if re.match(r"_[a-z]", name)
    }
    users = {
        file.name
        for file in Path(target_config.__file__).parent.glob("*.py")
        if private & set(re.findall(r"\b_\w+", file.read_text()))
        or re.search(r"import .*\b_[A-Za-z]", file.read_text())
    }
    assert users == {"sdk_overrides.py"}
