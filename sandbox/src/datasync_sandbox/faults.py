"""Faults on demand: each thing that goes wrong in practice, by name.

A fault sits on a page. Pages are numbered along a walk: the request without a cursor
asks for page 1, and the cursor that page n handed out asks for page n + 1. Asking again
for a page does not change its number, and a new walk counts from 1 again. A fault hits
as many requests for its page as its count says, over the life of the server; then the
page is served as if nothing had been. Several faults on one page hit one after the other.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datasync_sandbox.catalogue import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasync_sandbox.draft import Draft
    from datasync_sandbox.outcomes import Outcome

_SPELLING = re.compile(
    r"(?P<name>[a-z0-9-]+)(=(?P<value>\d+(\.\d+)?))?@(?P<page>\d+)(x(?P<count>\d+|forever))?"
)


@dataclass(frozen=True)
class Fault:
    """A fault that is to happen.

    Attributes:
        name: A name from the catalogue.
        page: Number of the page, from 1.
        count: How many requests it hits; ``None`` is every one.
        value: Its argument, mostly seconds; ``None`` takes the fault's own default.
    """

    name: str
    page: int
    count: int | None = 1
    value: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot happen.

        Raises:
            ValueError: If the name is unknown, or page or count are below 1.
        """
        if self.name not in FAULTS:
            message = f"no fault is called {self.name!r}; --list-faults names them all"
            raise ValueError(message)
        if self.page < 1 or (self.count is not None and self.count < 1):
            message = f"page and count of the fault {self.name!r} start at 1"
            raise ValueError(message)
        if self.value is not None and FAULTS[self.name].default is None:
            message = f"the fault {self.name!r} takes no value"
            raise ValueError(message)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``NAME[=VALUE]@PAGE[xCOUNT]``: ``503@3``, ``drip-body=30@2``, ``false-end@4xforever``.

        Raises:
            ValueError: If the text is something else.
        """
        match = _SPELLING.fullmatch(text.strip())
        if match is None:
            message = (
                f"{text!r} is not a fault: write NAME@PAGE, NAME@PAGExCOUNT or NAME=VALUE@PAGE"
            )
            raise ValueError(message)
        count, value = match["count"] or "1", match["value"]
        return cls(
            match["name"],
            int(match["page"]),
            None if count == "forever" else int(count),
            None if value is None else float(value),
        )

    def __str__(self) -> str:
        """Write the fault as `parse` reads it."""
        value = "" if self.value is None else f"={self.value:g}"
        count = {None: "xforever", 1: ""}.get(self.count, f"x{self.count}")
        return f"{self.name}{value}@{self.page}{count}"

    @property
    def argument(self) -> float:
        """The fault's value, or its own default."""
        return (FAULTS[self.name].default or 0.0) if self.value is None else self.value

    def strike(self, draft: Draft) -> Outcome:
        """Return what becomes of a request that this fault hits."""
        return FAULTS[self.name].strike(draft, self.argument)


class Faults:
    """The faults still to happen."""

    def __init__(self, faults: Iterable[Fault | str] = ()) -> None:
        """Collect faults.

        Args:
            faults: Faults, or their spellings; see `Fault.parse`.

        Raises:
            ValueError: If a spelling is wrong.
        """
        self._left = [Fault.parse(fault) if isinstance(fault, str) else fault for fault in faults]
        self.served: Counter[str] = Counter()

    def next(self, page: int | None) -> Fault | None:
        """Return the fault that the next request for a page meets, if any."""
        return next((fault for fault in self._left if fault.page == page), None)

    def spend(self, fault: Fault) -> None:
        """Count a hit of a fault, and forget the fault when it was the last."""
        self.served[fault.name] += 1
        if fault.count is None:
            return
        at = self._left.index(fault)
        if fault.count == 1:
            del self._left[at]
        else:
            self._left[at] = replace(fault, count=fault.count - 1)

    def pending(self) -> list[str]:
        """Return the spellings of the faults still to happen."""
        return [str(fault) for fault in self._left]
