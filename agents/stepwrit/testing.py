"""Test a guarded tool or resource in one process: no socket, no Workload API, no set-up.

    pytest_plugins = ["stepwrit.testing"]    # in conftest.py; or `from stepwrit.testing import stepwrit`

    async def test_refusal(stepwrit):
        stepwrit.refuse("transfer", reason="limit", retry_after=12)
        async with stepwrit.client(server) as client:
            assert "limit" in (await client.call_tool("transfer", {"amount": 5})).content[0].text
        assert stepwrit.ledger.reasons() == ["limit"]

Importing this module needs pytest, and puts placeholders for SPIFFE_ENDPOINT_SOCKET and STEPWRIT_BROKER into
the environment where they are not set, so that a module with `Stepwrit.from_env()` can be imported. They lead
nowhere.
"""

from __future__ import annotations

import os

import httpx2
import pytest

from stepwrit._settings import BROKER, SOCKET
from stepwrit._testing_books import Entry, Ledger
from stepwrit._testing_face import FakeBroker
from stepwrit._testing_kit import Kit, Resource

__all__ = ["Entry", "FakeBroker", "Kit", "Ledger", "Resource", "stepwrit"]

os.environ.setdefault(SOCKET, "unix:///nonexistent/stepwrit-testing.sock")
os.environ.setdefault(BROKER, "https://broker.stepwrit.invalid")


@pytest.fixture(name="stepwrit")
def stepwrit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    """A fresh in-memory broker with its knobs; see `Kit`."""
    kit = Kit()
    outside = httpx2.AsyncHTTPTransport.handle_async_request

    async def handle(self: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        inside = kit.route(request)
        return await (inside.handle_async_request(request) if inside else outside(self, request))

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
    return kit
