"""When a failed run is started again, and when that has an end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
FEWEST_ATTEMPTS = 5
PATIENCE_S = 15 * 60.0


class RestartPolicy:
    """Decides on the pause before the next attempt.

    A run that got somewhere is started again at once: the cursor it left lives
    for two minutes only. While nothing moves the pauses grow, 0, 1, 2, 4, ... 60
    seconds, and after a quarter of an hour without any movement it gives up. The
    attempts are counted too, because one attempt may take longer than that: the
    tap has a patience of its own.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        patience: float = PATIENCE_S,
        fewest: int = FEWEST_ATTEMPTS,
    ) -> None:
        """Begin to count now.

        Args:
            clock: Seconds of a monotonic clock.
            patience: Seconds without movement after which it gives up.
            fewest: Attempts without movement that are made in any case.
        """
        self._clock = clock
        self._patience = patience
        self._fewest = fewest
        self._moved_at = clock()
        self._fruitless = 0

    def pause(self, *, moved: bool) -> float | None:
        """Tell how long to wait before the next attempt.

        Args:
            moved: Whether the attempt that has just failed moved the checkpoint.

        Returns:
            Seconds; None to give up.
        """
        now = self._clock()
        if moved:
            self._moved_at, self._fruitless = now, 0
        else:
            self._fruitless += 1
            if self._fruitless >= self._fewest and now - self._moved_at >= self._patience:
                return None
        if self._fruitless <= 1:
            return 0.0
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (self._fruitless - 2))
