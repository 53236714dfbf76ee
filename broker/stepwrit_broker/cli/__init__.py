"""The command line. Thin: it asks a broker, or reads its files, and tells."""

from __future__ import annotations

import sys
from typing import TextIO


def main() -> None:
    """`stepwrit`: run one command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        _never_choke(stream)
    from stepwrit_broker.cli.app import app  # noqa: PLC0415  importing the package must stay cheap

    app()


def _never_choke(stream: TextIO) -> None:
    """A terminal that cannot show a sign shows `?` instead of ending the command."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
