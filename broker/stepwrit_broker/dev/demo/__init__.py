"""`stepwrit demo`: one story over the real wire, counted from the broker's own books."""

from stepwrit_broker.dev.demo.run import main

__all__ = ["main"]
