"""The log's tiles over HTTP: who reads what, and how long it may be kept."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
from tests.fakes.stage import ENTRIES, Actor, Stage

from stepwrit_broker.core.merkle import leaf_hash, parse_checkpoint, root_of
from stepwrit_broker.core.tiles import parse_bundle
from stepwrit_broker.ledger.checkpoint import open_checkpoint

AUDITOR = {"id": "auditor/all", "role": "auditor", "name": "auditor"}
ONE_TENANT = [*(each for each in ENTRIES if each.get("tenant") != "blue"), AUDITOR]
TENANTS = [*ENTRIES, AUDITOR, {"id": "auditor/blue", "role": "auditor", "name": "eye", "tenant": "blue"}]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with Stage(entries=ONE_TENANT) as made:
        made.tuned["tiles_for"] = "everyone"
        await made.restart()
        await made.held()
        await made.broker.backing.sign()
        yield made


async def get(who: Actor, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    answer = await who.send("GET", path, b"", {"DPoP": who.proof(path, "GET"), **headers})
    return answer.status, answer.raw, dict(answer.headers)


def public(stage: Stage) -> httpx2.AsyncClient:
    tls = ssl.create_default_context(cafile=str(stage.settings().tls_cert))
    tls.check_hostname = False
    return httpx2.AsyncClient(base_url=stage.tls_url, verify=tls, trust_env=False)


def size_of(stage: Stage) -> int:
    signed = stage.embedded.ledgering.signed()
    assert signed is not None
    return signed.size


async def test_anyone_reads_checkpoint_and_hash_tiles_where_the_operator_says_so(stage: Stage) -> None:
    async with public(stage) as http:
        answer = await http.get("/tlog/checkpoint")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert answer.headers["cache-control"] == "no-cache"
        signed = open_checkpoint(answer.text, stage.embedded.ledgering.key.verifier).checkpoint
        tile = await http.get(f"/tlog/tile/0/000.p/{signed.size}")
        assert tile.headers["content-type"] == "application/octet-stream"
        assert tile.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert root_of(tile.content[at : at + 32] for at in range(0, len(tile.content), 32)) == signed.root


async def test_entries_are_never_public(stage: Stage) -> None:
    async with public(stage) as http:
        assert (await http.get("/tlog/tile/0/000.p/1")).status_code == 200
        for name in ("entries/000.p/1", "entries/000", "%65ntries/000.p/1", "0/../entries/000.p/1"):
            answer = await http.get(f"/tlog/tile/{name}")
            assert (answer.status_code, answer.headers.get("cache-control")) == (404, "no-store"), name


async def test_what_is_not_there_yet_is_not_found_and_not_cached(stage: Stage) -> None:
    async with public(stage) as http:
        for name in (
            "0/000",
            "1/000.p/1",
            "0/000.p/255",
            "0/x999/x999/999",
            "0/000.p/0",
            "63/000",
            "x" * 5000,
        ):
            answer = await http.get(f"/tlog/tile/{name}")
            assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store"), name
        assert (await http.post("/tlog/checkpoint")).status_code == 405


async def test_an_auditor_reads_entries_that_hash_to_the_tile(stage: Stage) -> None:
    auditor, size = await stage.actor("auditor/all"), size_of(stage)
    status, tile, headers = await get(auditor, f"/tlog/tile/0/000.p/{size}")
    assert (status, headers["cache-control"]) == (200, "private, max-age=31536000, immutable")
    name = f"/tlog/tile/entries/000.p/{size}"
    status, bundle, headers = await get(auditor, name, **{"Accept-Encoding": "identity"})
    assert (status, "content-encoding" in headers, headers["vary"]) == (200, False, "accept-encoding")
    assert b"".join(map(leaf_hash, parse_bundle(bundle))) == tile
    status, unpacked, headers = await get(auditor, name, **{"Accept-Encoding": "gzip"})
    assert (status, headers["content-encoding"], unpacked) == (200, "gzip", bundle)


async def test_one_tenants_auditor_reads_hashes_and_not_what_others_did() -> None:
    async with Stage(entries=TENANTS) as stage:
        held = await stage.held()
        await stage.broker.backing.sign()
        own, blue = await stage.actors("auditor/all", "auditor/blue")
        for eye in (own, blue):
            assert (await get(eye, "/tlog/checkpoint"))[0] == 200
            assert (await get(eye, "/tlog/tile/0/000.p/1"))[0] == 200
            assert (await get(eye, "/tlog/tile/entries/000.p/1"))[0] == 403
        entry = stage.broker.ledger.of_txn(held.txn)[0]
        for name in (entry.ref, entry.seq):
            assert (await get(own, f"/v1/admin/ledger/prove/{name}"))[0] == 200
            assert (await get(blue, f"/v1/admin/ledger/prove/{name}"))[0] == 404


async def test_workloads_that_are_no_auditors_read_nothing(stage: Stage) -> None:
    chat = await stage.actor("agent/chat")
    for path in ("/tlog/checkpoint", "/tlog/tile/0/000.p/1", "/tlog/tile/entries/000.p/1"):
        assert (await get(await stage.actor("auditor/all"), path))[0] == 200
        assert (await get(chat, path))[0] == 403


async def test_by_default_nothing_is_public() -> None:
    async with Stage() as stage, public(stage) as http:
        assert (await http.get("/oauth/jwks")).status_code == 200
        assert (await http.get("/tlog/checkpoint")).status_code == 404
        assert (await stage.admin("GET", "/v1/admin/status")).status == 200


async def test_what_is_shown_after_a_start_is_what_was_anchored(stage: Stage) -> None:
    before = size_of(stage)
    await stage.restart()
    assert size_of(stage) >= before
    note = (await get(await stage.actor("auditor/all"), "/tlog/checkpoint"))[1].decode()
    assert parse_checkpoint(note.partition("\n\n")[0] + "\n").size >= before


async def test_what_no_entry_is_named_by_is_not_found(stage: Stage) -> None:
    auditor = await stage.actor("auditor/all")
    own = next(each for each in stage.broker.ledger.tail(-1, 99, (), None) if each.tenant is not None)
    assert (await get(auditor, f"/v1/admin/ledger/prove/{own.seq}"))[0] == 200
    assert (await get(auditor, "/v1/admin/ledger/prove/0"))[0] == 404, "of no tenant: not this auditor's"
    for bad in ("999999999", "nonsense", "-1", "1" * 30):
        assert (await get(auditor, f"/v1/admin/ledger/prove/{bad}"))[0] == 404
