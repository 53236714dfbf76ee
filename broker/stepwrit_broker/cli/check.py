"""What one check of `stepwrit doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """ok: None is a warning. said: what was seen. todo: what to do about it."""

    name: str
    ok: bool | None
    said: str
    todo: str = ""

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {"name": self.name, "ok": self.ok, "said": self.said, "todo": self.todo or None}
