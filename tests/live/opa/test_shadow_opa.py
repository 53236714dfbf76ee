"""Shadows and impact reports with a real OPA: either engine beside the other; a slow candidate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.fakes.stage import Stage
from tests.policy.opa_process import RunningOpa, running_opa
from tests.policy.world import Scene, opening

from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.answer import answer_of
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.verdict import Permit
from stepwrit_broker.policy.files import EngineName, compile_policy, load, stance
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.wiring.candidates import Candidates
from stepwrit_broker.wiring.settings import BrokerSettings

pytestmark = pytest.mark.live
QUESTIONS = [
    opening(Scene(origin=origin, impact=impact))
    for origin in ("model", "server")
    for impact in ("low", "medium", "high")
]  # type: ignore[arg-type]
SLOW = """package stepwrit
permit contains "yes"
forbid contains {"id": "slow", "reason": "slow"} if {
    input.asking
    some x in numbers.range(1, 20000)
    some y in numbers.range(1, 20000)
    x * y == -1
}
"""


@pytest.fixture
async def opa(tmp_path: Path) -> AsyncIterator[RunningOpa]:
    async with running_opa(tmp_path) as server:
        yield server


@pytest.mark.parametrize("name", ["low-risk", "approval"])
async def test_a_candidate_in_rego_says_what_the_engine_says(
    opa: RunningOpa, tmp_path: Path, name: str
) -> None:
    server = OpaServer(url=opa.url, timeout_s=5)
    files = stance(name, "opa")
    candidate = await Candidates(tmp_path / "none.db", server).open(json.dumps(files))
    live = Opa(server, elapsed_s)
    engine = compile_policy(load(files).doc, 1, live)
    assert await candidate.answers(QUESTIONS) == [answer_of(await engine.decide(each)) for each in QUESTIONS]
    await candidate.aclose()
    await live.aclose()


async def test_what_opa_does_not_take_is_told_to_its_author(opa: RunningOpa, tmp_path: Path) -> None:
    text = "package stepwrit\npermit contains x if y\n"
    with pytest.raises(Malformed) as bad:
        await Candidates(tmp_path / "none.db", OpaServer(url=opa.url)).open(json.dumps({"a.rego": text}))
    assert "a.rego:2" in bad.value.reason


async def test_a_candidate_that_opa_cannot_answer_leaves_the_live_breaker_shut(
    opa: RunningOpa, tmp_path: Path
) -> None:
    server = OpaServer(url=opa.url, timeout_s=0.5, failures=2, open_s=60)
    live = Opa(server, elapsed_s)
    engine = compile_policy(load(stance("low-risk", "opa")).doc, 1, live)
    assert isinstance(await engine.decide(QUESTIONS[0]), Permit)
    candidate = await Candidates(tmp_path / "none.db", server).open(json.dumps({"a.rego": SLOW}))
    assert await candidate.answers(QUESTIONS) == [None] * len(QUESTIONS)
    for _ in range(3):
        assert isinstance(await engine.decide(QUESTIONS[0]), Permit)
    assert not live._breaker.is_open
    await candidate.aclose()
    await live.aclose()


class OpaStage(Stage):
    """A broker with an OPA, and perhaps another one for rehearsals."""

    def __init__(self, url: str, rehearsal_url: str = "") -> None:
        super().__init__()
        self.opa_url, self.rehearsal_url = url, rehearsal_url

    def settings(self) -> BrokerSettings:
        opa = OpaServer(url=self.opa_url, timeout_s=5)
        return replace(super().settings(), opa=opa, rehearsal_opa_url=self.rehearsal_url)

    async def shadow(self, engine: EngineName) -> None:
        body = {"text": json.dumps(stance("approval", engine)), "reason": "a test says so"}
        (await self.admin("POST", "/v1/admin/policy/shadow", body)).ok()

    async def compared(self, count: int) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                found = (await self.admin("GET", "/v1/admin/policy/shadow")).ok()["shadow"]
                if found["compared"] + sum(found["errors"].values()) >= count:
                    return dict(found)
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(("live", "candidate"), [("cedar", "opa"), ("opa", "cedar"), ("opa", "opa")])
async def test_either_engine_runs_beside_either_and_they_agree(
    opa: RunningOpa, live: EngineName, candidate: EngineName
) -> None:
    async with OpaStage(opa.url) as stage:
        (await stage.apply("policy", json.dumps(stance("approval", live)))).ok()
        await stage.shadow(candidate)
        held = await stage.held()
        (await held.redeem()).ok()
        chat = await stage.actor("agent/chat")
        assert (await chat.open_reply((await chat.intent())["step"], "ledger/wipe")).status >= 400
        found = await stage.compared(5)
        assert (found["compared"], found["same"], found["errors"]) == (5, 5, {})
        body = {"text": json.dumps(stance("approval", candidate))}
        report = (await stage.admin("POST", "/v1/admin/policy/impact", body)).ok()
        assert report["replay"]["asked"] == 5
        assert (report["replay"]["effects"], report["shadow"]["compared"]) == ({}, 5)


async def test_rehearsals_may_have_an_opa_of_their_own(opa: RunningOpa, tmp_path: Path) -> None:
    async with running_opa(tmp_path / "..") as other, OpaStage(opa.url, other.url) as stage:
        await stage.shadow("opa")
        await stage.held()
        assert (await stage.compared(3))["same"] == 3

        def modules(server: RunningOpa) -> int:
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(server.path))) as http:
                return len(http.get("http://opa/v1/policies").json()["result"])

        assert (await asyncio.to_thread(modules, opa), await asyncio.to_thread(modules, other)) == (0, 1)
