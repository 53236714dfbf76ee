"""The ledger is set back, cut off or forked by who controls the broker's machine: its witness finds it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from tests.fakes.stage import Held, Reply, Stage, refused

from stepwrit_broker.config_witness import WitnessConfig, WitnessLog
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.cosignature import CosignatureSigner, cosigned
from stepwrit_broker.ledger.witness.remote import RemoteWitness
from stepwrit_broker.ledger.witness.state import create_state, read_state
from stepwrit_broker.wiring import witnessing
from stepwrit_broker.wiring.witness import WitnessServer
from stepwrit_broker.wiring.witnessing import Witnessing


class Watched:
    """A broker, and a witness in a folder that no attack on the broker's machine reaches."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.server: WitnessServer | None = None
        self.signer = keys.create_witness(folder / "witness.key", name="witness.example/w1", seed=b"w" * 32)
        create_state(folder / "witness.json")
        self.config = WitnessConfig(
            name="witness.example/w1",
            key_file=folder / "witness.key",
            state_file=folder / "witness.json",
            listen="127.0.0.1:0",
            ops="127.0.0.1:0",
            log=(WitnessLog(vkey=stage.broker.backing.vkey),),
        )

    async def up(self) -> None:
        server = WitnessServer(self.config)
        self.server = await server.__aenter__()
        port = self.server.listener.url.rpartition(":")[2]
        self.config = replace(self.config, listen=f"127.0.0.1:{port}")

    async def down(self) -> None:
        if self.server is not None:
            await self.server.__aexit__(None, None, None)
            self.server = None

    @property
    def remote(self) -> RemoteWitness:
        url = f"http://{self.config.listen}"
        return RemoteWitness(url=url, verifier=self.signer.verifier)

    @property
    def seen(self) -> int:
        """The size that the witness remembers."""
        return next((each.checkpoint.size for each in read_state(self.config.state_file).values()), 0)

    @property
    def broker(self) -> Witnessing:
        return self.stage.embedded.witnessing

    async def followed(self) -> None:
        """All that is committed now is cosigned."""
        size = self.stage.embedded.ledgering.log.size
        await until(lambda: (self.broker.published() or (0, ""))[0] >= size)

    def snapshot(self) -> None:
        """The whole machine, anchor included; the broker is stopped."""
        for name in ("store", "anchor"):
            shutil.copytree(self.stage.folder / name, self.stage.folder / f"{name}.then", dirs_exist_ok=True)

    def roll_back(self) -> None:
        for name in ("store", "anchor"):
            shutil.rmtree(self.stage.folder / name)
            shutil.copytree(self.stage.folder / f"{name}.then", self.stage.folder / name)

    async def ready(self) -> tuple[int, dict[str, Any]]:
        async with httpx2.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"{self.stage.broker.ops.url}/readyz")
            return answer.status_code, answer.json()

    async def metric(self, name: str) -> float:
        await self.broker.gauge()
        async with httpx2.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{self.stage.broker.ops.url}/metrics")).text
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


async def until(holds: Callable[[], bool]) -> None:
    """Waits for as long as the test may run."""
    while not holds():
        await asyncio.sleep(0.02)


@pytest_asyncio.fixture(loop_scope="module")
async def watched(tmp_path: Path) -> AsyncGenerator[Watched]:
    async with Stage() as stage:
        made = Watched(stage, tmp_path)
        await made.up()
        stage.tuned["witnesses"] = (made.remote,)
        await stage.restart()
        yield made
        await made.down()


async def refused_by_witness(stage: Stage, ask: Callable[[], Awaitable[Any]]) -> None:
    entry = refused(stage, await ask(), "unavailable")
    assert entry.facts is not None
    assert entry.facts["rule"] == "witness"


async def an_intent(stage: Stage) -> Reply:
    chat = await stage.actor("agent/chat")
    return await chat.form(chat.intent_form(stage.issuer.mint("alice", client_id="chat-app")))


async def test_each_checkpoint_is_cosigned_and_the_published_one_shows_it(watched: Watched) -> None:
    held = await watched.stage.held()
    (await held.redeem()).ok()
    await watched.followed()
    published = watched.broker.published()
    assert published is not None
    (made,) = cosigned(published.note, [watched.signer.verifier])
    assert (published.size, made.at > 0) == (watched.seen, True)
    assert await watched.ready() == (200, {"ready": True, "reason": None, "doubts": []})
    assert await watched.metric("stepwrit_ledger_witnessed_entries") == watched.seen
    assert await watched.metric("stepwrit_ledger_contradicted") == 0
    status = (await watched.stage.admin("GET", "/v1/admin/status")).ok()
    assert status["witnesses"]["asked"][0]["failing"] is None


async def test_a_machine_rolled_back_as_a_whole_is_found_before_it_serves(watched: Watched) -> None:
    stage = watched.stage
    held = await stage.held()
    await watched.followed()
    await stage.stop()
    watched.snapshot()
    await stage.start()  # the same files: nothing to object to
    assert await watched.ready() == (200, {"ready": True, "reason": None, "doubts": []})
    again = await stage.held()
    (await again.redeem()).ok()
    await watched.followed()
    await stage.stop()

    watched.roll_back()
    await stage.start()  # database and anchor agree; only the witness knows better
    assert watched.broker.contradiction() is not None
    await _nothing_is_granted(watched, held)


async def _nothing_is_granted(watched: Watched, held: Held) -> None:
    stage = watched.stage
    await refused_by_witness(stage, lambda: an_intent(stage))
    reply = await held.redeem()
    assert reply.status >= 400
    ready, told = await watched.ready()
    assert (ready, "witness.example/w1" in told["reason"]) == (503, True)
    assert await watched.metric("stepwrit_ledger_contradicted") == 1
    assert (await stage.mark("freeze", "tool:ledger/transfer")).status == 200, "the brake works"
    kinds = [each.kind for each in stage.broker.ledger.tail(-1, 999, ("witness.contradicted",), None)]
    assert kinds == ["witness.contradicted"]
    published = watched.broker.published()
    assert published is None or published.size <= watched.seen


async def test_a_ledger_that_was_emptied_under_the_same_key_is_found(watched: Watched) -> None:
    stage = watched.stage
    held = await stage.held()
    await watched.followed()
    await stage.stop()
    shutil.rmtree(stage.folder / "store")
    shutil.rmtree(stage.folder / "anchor")
    await stage.start()
    assert "set back" in (watched.broker.contradiction() or "")
    await _nothing_is_granted(watched, held)


async def test_a_log_that_was_forked_while_its_witness_slept_is_found(watched: Watched) -> None:
    stage = watched.stage
    await stage.held()
    await watched.followed()
    await stage.stop()
    watched.snapshot()
    await stage.start()
    held = await stage.held()
    await watched.followed()
    size = watched.seen
    await stage.stop()

    watched.roll_back()
    await watched.down()
    await stage.start()  # nobody objects: the witness is cut off
    assert watched.broker.contradiction() is None
    while stage.embedded.ledgering.log.size <= size + 5:
        await stage.held()
    await stage.broker.backing.sign()
    await watched.up()
    await until(lambda: watched.broker.contradiction() is not None)
    assert "no continuation" in (watched.broker.contradiction() or "")
    assert watched.seen == size
    await _nothing_is_granted(watched, held)


async def test_a_witness_that_is_down_is_an_alarm_and_then_a_bound(watched: Watched) -> None:
    stage = watched.stage
    held = await stage.held()
    await watched.followed()
    published = watched.broker.published()
    await watched.down()
    other = await stage.held()
    (await held.redeem()).ok()
    await asyncio.sleep(1.2)
    assert watched.broker.published() == published, "nothing is published that nobody cosigned"
    assert (await watched.ready())[1]["doubts"] == []

    watched.broker._settings = replace(watched.broker._settings, witness_refuse_after_s=200.0)
    stage.pass_time(130)
    ready, told = await watched.ready()
    assert (ready, told["ready"], len(told["doubts"])) == (200, True, 1)
    assert await watched.metric("stepwrit_ledger_witnessed_age_seconds") > 120
    await stage.held()
    stage.pass_time(90)
    await refused_by_witness(stage, lambda: an_intent(stage))
    assert (await stage.mark("freeze", "tool:ledger/note")).status == 200
    assert other.token
    await watched.up()
    await until(lambda: watched.broker.told()[0]["failing"] is None)
    watched.broker._settings = (
        stage.broker.settings
    )  # the witness goes by the real time, this broker does not
    assert (await stage.mark("unfreeze", "tool:ledger/note")).status == 200
    await stage.held()


async def test_what_is_out_is_redeemed_while_no_witness_answers(watched: Watched) -> None:
    stage = watched.stage
    await watched.followed()
    held = await stage.held()
    await watched.down()
    watched.broker._settings = replace(watched.broker._settings, witness_refuse_after_s=1.0)
    stage.pass_time(30)
    await refused_by_witness(stage, lambda: an_intent(stage))
    (await held.redeem()).ok()


async def test_a_witness_with_another_key_counts_for_nothing(watched: Watched) -> None:
    stage = watched.stage
    await watched.followed()
    impostor = CosignatureSigner.from_seed("witness.example/w1", b"x" * 32)
    stage.tuned["witnesses"] = (replace(watched.remote, verifier=impostor.verifier),)
    await stage.restart()
    await stage.held()
    assert watched.broker.published() is None
    assert "no cosignature of the key we know" in str(watched.broker.told()[0]["failing"])
    assert watched.broker.contradiction() is None


async def test_a_quorum_of_two_is_reached_while_the_log_grows(watched: Watched, tmp_path: Path) -> None:
    stage = watched.stage
    other = tmp_path / "other"
    other.mkdir()
    third = Watched(stage, other)
    third.signer = CosignatureSigner.from_seed("witness.example/w2", b"2" * 32)
    (other / "witness.key").unlink()
    keys.create_witness(other / "witness.key", name="witness.example/w2", seed=b"2" * 32)
    third.config = replace(third.config, name="witness.example/w2")
    await third.up()
    stage.tuned["witnesses"] = (watched.remote, third.remote)
    stage.tuned["witness_quorum"] = 2
    await stage.restart()
    for _ in range(3):
        await stage.held()
        await watched.followed()
    published = watched.broker.published()
    assert published is not None
    assert len(cosigned(published.note, [watched.signer.verifier, third.signer.verifier])) == 2
    await third.down()


async def test_a_broker_starts_while_its_witness_is_unreachable(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessing, "FIRST_S", 0.5)
    await watched.down()
    await watched.stage.restart()
    (await (await watched.stage.held()).redeem()).ok()
    assert "cannot be reached" in str(watched.broker.told()[0]["failing"])
