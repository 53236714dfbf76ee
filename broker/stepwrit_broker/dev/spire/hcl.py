"""Configuration files in HCL, as SPIRE reads it: nested blocks of settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Block = Mapping[str, Any]


def render(block: Block) -> str:
    """A file of settings. A key may carry a label, as in `KeyManager "disk"`; None leaves a setting out."""
    return "\n".join(_lines(block)) + "\n"


def _lines(block: Block) -> Iterator[str]:
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield f"{key} {{"
            yield from (f"  {line}" for line in _lines(value))  # pyright: ignore[reportUnknownArgumentType]
            yield "}"
        elif value is not None:
            yield f"{key} = {json.dumps(value, default=str)}"
