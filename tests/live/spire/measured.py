"""What live tests measured, shown at the end of the run: `make test-live PYTEST_ARGS=tests/live/spire`."""

from __future__ import annotations

from collections.abc import Callable

Measured = Callable[[str, float], None]
shown: list[str] = []


def note(test: str, what: str, number: float) -> None:
    """One line of the report."""
    value = f"{number:d}" if isinstance(number, int) else f"{number:.2f}"
    shown.append(f"{value:>10}  {what}  ({test})")
