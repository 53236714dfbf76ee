"""A broker that loses its own identity says so, refuses, and goes on by itself when it is given again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from tests.fakes.stage import Stage

from stepwrit.errors import IdentityUnavailable
from stepwrit.flow import Lost


async def told(stage: Stage) -> dict[str, Any]:
    async with httpx2.AsyncClient() as http:
        reply = await http.get(f"{stage.broker.ops.url}/healthz", params={"verbose": "true"})
        assert reply.status_code == 200  # alive, whatever it depends on
        return dict(reply.json())


async def metrics_with(stage: Stage, line: str) -> str:
    page = ""
    async with httpx2.AsyncClient() as http:
        for _ in range(400):
            page = (await http.get(f"{stage.broker.ops.url}/metrics")).text
            if line in page:
                return page
            await asyncio.sleep(0.02)
    raise AssertionError(page)


async def until(stage: Stage, stream: str, state: str) -> dict[str, Any]:
    for _ in range(400):
        said = await told(stage)
        if said[stream]["state"] == state:
            return said
        await asyncio.sleep(0.02)
    raise AssertionError(said)


async def test_the_states_of_both_streams_are_told_and_measured() -> None:
    async with Stage() as stage:
        chat = await stage.actor("agent/chat")
        assert (await chat.form(chat.intent_form(stage.issuer.mint("alice", client_id="chat-app")))).ok()
        well = await until(stage, "jwt_bundles", "ok")
        assert well["identity"]["state"] == "ok"
        stage.trust.delete_entry("stepwrit/broker")
        lost = await until(stage, "identity", "withdrawn")
        assert "stepwrit/broker.sock" in lost["identity"]["why"]
        with pytest.raises(Lost):  # without an SVID there is no handshake
            await chat.form(chat.intent_form(stage.issuer.mint("alice", client_id="chat-app")))
        with pytest.raises(IdentityUnavailable):
            stage.broker.identity.snapshot()
        page = await metrics_with(stage, 'stepwrit_identity_state{state="withdrawn",stream="identity"} 1.0')
        assert 'stepwrit_identity_state{state="ok",stream="identity"} 0.0' in page
        left = next(line for line in page.splitlines() if line.startswith("stepwrit_svid_seconds_left "))
        assert 0 < float(left.split()[1]) < 3600
