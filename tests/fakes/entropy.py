"""Bytes that never repeat within a test and are the same in every run."""

from __future__ import annotations

import random


class SeededEntropy:
    """The Entropy port."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)
