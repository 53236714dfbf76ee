"""The composition root: settings in, a running broker out. The only package that knows every adapter."""

from stepwrit_broker.wiring.configured import run

__all__ = ["run"]
