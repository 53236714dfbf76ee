"""The engine in memory keeps the contract that the one on Redis keeps."""

from __future__ import annotations

import pytest
from tests.contracts.swift_suite import SHARDS, SwiftSuite
from tests.fakes.fleet import MemorySwift


class TestInMemory(SwiftSuite):
    @pytest.fixture
    def swift(self) -> MemorySwift:
        return MemorySwift(SHARDS)
