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

    from datasync_sandbox.api.responses import Outcome, PageResponse

_NOTATION = re.compile(
    r"(?P<name>[a-z0-9-]+)(=(?P<value>\d+(\.\d+)?))?@(?P<page>\d+)(x(?P<count>\d+|forever))?"
)


@dataclass(frozen=True)
class Fault:
    """A fault that is to happen.

    Attributes:
        name: A name from `FAULTS`.
        page: Number of the page, from 1.
        count: How many requests it hits; ``None`` is every one.
        value: Its value, mostly seconds; ``None`` is the default of the catalog.
    """

    name: str
    page: int
    count: int | None = 1
    value: float | None = None

    def __post_init__(self) -> None:
        """Refuse a fault that cannot happen.

        Raises:
            ValueError: If the name is unknown, page or count are below 1, or the fault takes no
                value.
        """
        if self.name not in FAULTS:
            message = f"unknown fault {self.name!r}; --list-faults lists all"
            raise ValueError(message)
        if self.page < 1 or (self.count is not None and self.count < 1):
            message = f"page and count of the fault {self.name!r} start at 1"
            raise ValueError(message)
        if self.value is not None and FAULTS[self.name].default is None:
            message = f"the fault {self.name!r} takes no value"
            raise ValueError(message)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse ``NAME[=VALUE]@PAGE[xCOUNT]``: ``503@3``, ``hang@2x3``, ``false-end@4xforever``.

        Raises:
            ValueError: If the text is not a fault.
        """
        match = _NOTATION.fullmatch(text.strip())
        if match is None:
            message = f"{text!r} is not a fault: expected NAME[=VALUE]@PAGE[xCOUNT]"
            raise ValueError(message)
        count, value = match["count"] or "1", match["value"]
        return cls(
            match["name"],
            int(match["page"]),
            None if count == "forever" else int(count),
            None if value is None else float(value),
        )

    def __str__(self) -> str:
        """Return the fault as `parse` reads it."""
        value = "" if self.value is None else f"={self.value:g}"
        count = {None: "xforever", 1: ""}.get(self.count, f"x{self.count}")
        return f"{self.name}{value}@{self.page}{count}"

    @property
    def argument(self) -> float:
        """The fault's value, or the default."""
        return (FAULTS[self.name].default or 0.0) if self.value is None else self.value

    def apply(self, page: PageResponse) -> Outcome:
        """Return the outcome of a request for a page that this fault hits."""
        return FAULTS[self.name].apply(page, self.argument)


class Faults:
    """The faults still to happen.

    Attributes:
        served: How many requests each fault has hit, by name.
    """

    def __init__(self, faults: Iterable[Fault | str] = ()) -> None:
        """Collect faults, parsed or not.

        Raises:
            ValueError: If a text is not a fault.
        """
        self._pending = [Fault.parse(f) if isinstance(f, str) else f for f in faults]
        self.served: Counter[str] = Counter()

    def next(self, page: int | None) -> Fault | None:
        """Return the fault that the next request for a page meets, if any."""
        return next((fault for fault in self._pending if fault.page == page), None)

    def consume(self, fault: Fault) -> None:
        """Count a request that a fault has hit; the last one removes the fault."""
        self.served[fault.name] += 1
        if fault.count is None:
            return
        at = self._pending.index(fault)
        if fault.count == 1:
            del self._pending[at]
        else:
            self._pending[at] = replace(fault, count=fault.count - 1)

    def pending(self) -> list[str]:
        """Return the faults still to happen, as `Fault.parse` reads them."""
        return [str(fault) for fault in self._pending]
