"""What comes from outside the process besides the network: time, randomness, the environment.

The only place of the SDK that reads them; everything else is given a `Clock` and an `Entropy`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...


class Entropy(Protocol):
    """Unpredictable bytes from a cryptographic source."""

    def bytes(self, count: int) -> bytes:
        """`count` fresh random bytes."""
        ...


class SystemClock:
    """The system's clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()


class SystemEntropy:
    """The operating system's randomness."""

    def bytes(self, count: int) -> bytes:
        """`count` fresh random bytes."""
        return os.urandom(count)


def random_id(entropy: Entropy) -> str:
    """128 random bits as 32 hexadecimal characters: operation ids and `jti`s."""
    return entropy.bytes(16).hex()


def fraction(entropy: Entropy) -> float:
    """A random number from 0 up to but not including 1, for jitter."""
    return int.from_bytes(entropy.bytes(4), "big") / 2**32


def environment() -> Mapping[str, str]:
    """The process's environment variables."""
    return os.environ
