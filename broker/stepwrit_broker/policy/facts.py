"""The facts of arguments that policy may read: declared in facts.json with types, alike in each engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FACT_TYPES: Final = {"String": str, "Long": int, "Bool": bool}
MISFIT: Final = "a fact of the arguments is not of its declared type"
_LONG: Final = 2**63


class Facts:
    """Declared facts by name and type. Those that are not declared are not shown to policy."""

    def __init__(self, declared: Mapping[str, str]) -> None:
        self._kinds = {name: FACT_TYPES[kind] for name, kind in declared.items()}

    def shown(self, facts: Mapping[str, object]) -> dict[str, object] | None:
        """What policy sees of these facts; None where one is of another type than declared."""
        shown = {name: facts[name] for name in self._kinds if name in facts}
        fits = all(_fits(value, self._kinds[name]) for name, value in shown.items())
        return shown if fits else None


def _fits(value: object, kind: type) -> bool:
    """Cedar knows no fractions and no integers beyond 64 bits; a boolean is no number."""
    if type(value) is not kind:
        return False
    return not isinstance(value, int) or -_LONG <= value < _LONG
