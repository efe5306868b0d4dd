"""Faults that are to happen, each on a page of the scan.

The request without a cursor asks for page 1, and the cursor that page n issued asks for page
n + 1. Asking again for a page does not change its number; a new scan counts from 1. A fault hits
as many requests for its page as its count says, over the life of the server; then the page is
served unchanged. Several faults on one page hit one after the other.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datasync_sandbox.api.fault_catalog import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable

_NOTATION = re.compile(r"([a-z0-9-]+)(?:=(\d+(?:\.\d+)?))?@([1-9]\d*)(?:x([1-9]\d*|forever))?")


@dataclass(frozen=True)
class Fault:
    """A fault that is to happen.

    Attributes:
        name: A name from `FAULTS`.
        page: Number of the page, from 1.
        count: How many requests it hits, from 1; ``None`` is every one.
        value: Its value, mostly seconds; ``None`` is the default of the catalog.
    """

    name: str
    page: int
    count: int | None = 1
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse ``NAME[=VALUE]@PAGE[xCOUNT]``: ``503@3``, ``hang@2x3``, ``false-end@4xforever``.

        Raises:
            ValueError: If the text is not a fault, its name is unknown, or it takes no value.
        """
        match = _NOTATION.fullmatch(text.strip())
        if match is None:
            message = (
                f"{text!r} is not a fault: expected NAME[=VALUE]@PAGE[xCOUNT], "
                "with page and count from 1"
            )
            raise ValueError(message)
        name, value, page, count = match.groups()
        if name not in FAULTS:
            message = f"unknown fault {name!r}; --list-faults lists all"
            raise ValueError(message)
        if value and FAULTS[name].default is None:
            message = f"the fault {name!r} takes no value"
            raise ValueError(message)
        hits = None if count == "forever" else int(count or 1)
        return cls(name, int(page), hits, float(value) if value else None)

    def __str__(self) -> str:
        """Return the fault as `parse` reads it."""
        value = "" if self.value is None else f"={self.value:g}"
        count = {None: "xforever", 1: ""}.get(self.count, f"x{self.count}")
        return f"{self.name}{value}@{self.page}{count}"

    @property
    def argument(self) -> float:
        """The fault's value, or the default."""
        return (FAULTS[self.name].default or 0.0) if self.value is None else self.value


class Faults:
    """The faults still to happen.

    Attributes:
        pending: The faults.
        served: How many requests each fault has hit, by name.
    """

    def __init__(self, faults: Iterable[Fault | str] = ()) -> None:
        """Collect faults, parsed or not.

        Raises:
            ValueError: If a text is not a fault.
        """
        self.pending = [Fault.parse(f) if isinstance(f, str) else f for f in faults]
        self.served: Counter[str] = Counter()

    def next(self, page: int | None) -> Fault | None:
        """Return the fault that the next request for a page meets, if any."""
        return next((fault for fault in self.pending if fault.page == page), None)

    def consume(self, fault: Fault) -> None:
        """Count a request that a fault has hit; the last one removes the fault."""
        self.served[fault.name] += 1
        if fault.count is not None:
            rest = [replace(fault, count=fault.count - 1)] if fault.count > 1 else []
            at = self.pending.index(fault)
            self.pending[at : at + 1] = rest
