"""The sealed arguments of deferred steps: kept while the step lives, erased in the write that ends it."""

from __future__ import annotations

from typing import Final

from stepwrit_broker.store.state import State

SELECT: Final = "SELECT sealed FROM sealed_args WHERE step = ?"
_PUT: Final = "INSERT INTO sealed_args (step, sealed) VALUES (?, ?)"
_ERASE: Final = "DELETE FROM sealed_args WHERE step = ?"


def keep(state: State, step: str, sealed: bytes) -> None:
    """Keep them with the step that is being opened."""
    state.conn.execute(_PUT, (step, sealed))


def erase(state: State, step: str) -> None:
    """The step has ended."""
    state.conn.execute(_ERASE, (step,))
