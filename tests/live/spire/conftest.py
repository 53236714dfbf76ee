"""One real SPIRE for the whole folder: a server, an agent, this process enrolled as everybody on the stage.

A missing program fails every test here, and says `make tools`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.fakes.stage import ENTRIES, Stage
from tests.live.spire.measured import Measured, note, shown

from stepwrit_broker.dev.spire import SpireDomain

DOMAIN = "live.test"
LONE = "agent/lone"
MORE = [
    {"id": LONE, "role": "agent", "name": "lone", "clients": ["lone-app"], "attest": ["jwt"],
     "may_start": {"tools": ["ledger/*"], "impact": "high"}},
]  # fmt: skip
EVERYBODY = (
    "stepwrit/broker",
    LONE,
    "agent/chat",
    "agent/other",
    "mcp-server/ledger",
    "mcp-server/audit",
    "mcp-server/mallory",
    "resource/bank/1",
    "trigger/nightly",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def spire() -> Iterator[SpireDomain]:
    """A running trust domain that nobody breaks; a test that breaks things makes its own."""
    domain = SpireDomain(DOMAIN)
    asyncio.run(domain.start())
    try:
        asyncio.run(domain.enrol(*EVERYBODY))
        yield domain
    finally:
        asyncio.run(domain.stop())


@pytest.fixture
async def stage(spire: SpireDomain) -> AsyncIterator[Stage]:
    """A broker and its callers, every identity from SPIRE."""
    async with Stage(domain=DOMAIN, identities=spire, entries=[*ENTRIES, *MORE]) as made:
        yield made


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Notes a number for the report at the end."""
    return partial(note, request.node.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if shown:
        terminalreporter.section("measured")
        for line in shown:
            terminalreporter.write_line(line)
