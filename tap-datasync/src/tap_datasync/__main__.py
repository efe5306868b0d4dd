"""The command ``tap-datasync``: handles signals from its first instant."""

from __future__ import annotations

from tap_datasync.signals import exit_on_signals


def main() -> None:
    """Run the tap; see :func:`tap_datasync.tap.run`."""
    exit_on_signals()
    # Imported now, because the SDK takes most of a second.
    from tap_datasync.tap import run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
