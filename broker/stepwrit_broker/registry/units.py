"""Durations and rates as operators write them."""

from __future__ import annotations

import re
from typing import Final

_DURATION: Final = re.compile(r"([0-9]{1,6})(s|m|min|h|d)")
_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(s|min|h|day)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "day": 86400.0}


def seconds(text: str) -> float:
    """`90s`, `15m`, `15min`, `1h`, `1d` in seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("must be a duration such as 90s, 15m or 1h")
    return int(found[1]) * _SECONDS[found[2]]


def rate(text: str) -> tuple[int, float]:
    """`10/s`, `600/min`, `100/h`, `1000/day` as a count and a period in seconds. Raises ValueError."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError("must be a rate such as 10/s, 600/min, 100/h or 1000/day")
    return int(found[1]), _SECONDS[found[2]]
