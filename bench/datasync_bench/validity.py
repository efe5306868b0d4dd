"""Which results count: those of loads that left every event in the table, once; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_PARTS = ("comparison", "growth", "paced", "real")


def valid(results: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """What counts of a part: nothing else is judged, drawn or quoted.

    Args:
        results: The document of a run, as `cli` writes it; every part may be missing.
        part: `comparison`, `growth`, `paced` or `real`.
    """
    return [found for found in results.get(part, []) if found["valid"]]


def is_valid(results: Mapping[str, Any]) -> bool:
    """Whether nothing that was measured is void."""
    return all(len(valid(results, part)) == len(results.get(part, [])) for part in _PARTS)
