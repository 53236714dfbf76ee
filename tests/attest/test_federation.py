"""Bundles from endpoints: over real TLS on loopback, profile by profile, and what each answer does."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import stat
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.fakes.bundles import Endpoint, document, server_tls
from tests.fakes.pki import FakeCa

from stepwrit.spiffe_bundle import MAX_BUNDLE_BYTES
from stepwrit_broker.attest.federation.feed import Feed, Surroundings
from stepwrit_broker.attest.federation.fetch import fetch
from stepwrit_broker.attest.federation.memory import Memory
from stepwrit_broker.attest.federation.partner import BundleNotTaken, Partner
from stepwrit_broker.attest.federation.trust import Federation

DOMAIN, SPIRE = "b.test", "spiffe://b.test/spire/server"


class World:
    """One partner, its authority, and the endpoint that serves its bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ahead = 0.0
        self.ca, self.web = FakeCa(DOMAIN, now=time.time()), FakeCa("web", now=time.time())
        self.told: list[tuple[str, str, bool]] = []
        self.roots: dict[str, Sequence[bytes]] = {}
        self.endpoint: Endpoint

    def now(self) -> float:
        return time.time() + self.ahead

    async def _tell(self, domain: str, outcome: str, news: bool) -> None:
        self.told.append((domain, outcome, news))

    def around(self, **more: Any) -> Surroundings:
        return Surroundings(
            now=self.now, luck=lambda: 0.5, roots=lambda d: self.roots.get(d, ()), told=self._tell, **more
        )

    def by_web(self, **changes: Any) -> Partner:
        path = self.folder / "ca.pem"
        path.write_bytes(x509.load_der_x509_certificate(self.web.der).public_bytes(Encoding.PEM))
        made = Partner(trust_domain=DOMAIN, url=self.endpoint.url, profile="https_web", ca_file=path)
        return replace(made, **changes)

    def by_spiffe(self, **changes: Any) -> Partner:
        path = self.folder / "first.json"
        path.write_bytes(document(self.ca, sequence=1))
        made = Partner(
            trust_domain=DOMAIN,
            url=self.endpoint.url,
            profile="https_spiffe",
            endpoint_id=SPIRE,
            bootstrap=path,
        )
        return replace(made, **changes)

    def feed(self, partner: Partner | None = None, **more: Any) -> Feed:
        feed = Feed(partner or self.by_web(), Memory(self.folder / "federation", DOMAIN), self.around(**more))
        feed.load()
        return feed

    async def outcome(self, feed: Feed) -> str:
        await feed.poll()
        return feed.health(self.now()).why


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    made = World(tmp_path)
    async with Endpoint(server_tls(made.web.issue("spiffe://web/x", dns=("localhost",)))) as made.endpoint:
        made.endpoint.body = document(made.ca, sequence=3)
        yield made


@pytest_asyncio.fixture
async def spiffe(tmp_path: Path) -> AsyncGenerator[World]:
    made = World(tmp_path)
    async with Endpoint(server_tls(made.ca.issue(SPIRE))) as made.endpoint:
        made.endpoint.body = document(made.ca, sequence=3)
        yield made


# --- https_web


async def test_a_bundle_is_fetched_and_held(world: World) -> None:
    feed = world.feed()
    assert feed.held is None
    assert await world.outcome(feed) == "ok"
    assert feed.held is not None
    assert (feed.held.bundle.x509, feed.held.bundle.sequence) == ((world.ca.der,), 3)
    assert world.told == [(DOMAIN, "ok", True)]
    await feed.poll()
    assert world.told[1:] == [(DOMAIN, "ok", False)]
    health = feed.health(world.now())
    assert (health.state, health.sequence, health.tries) == ("ok", 3, 0)


async def test_a_server_without_the_right_name_or_authority_is_refused(world: World) -> None:
    assert await world.outcome(world.feed()) == "ok"
    elsewhere = world.by_web(url=world.endpoint.url.replace("localhost", "127.0.0.1"))
    assert await world.outcome(world.feed(elsewhere)) == "tls"
    assert await world.outcome(world.feed(world.by_web(ca_file=None))) == "tls"
    assert await world.outcome(world.feed(world.by_web(ca_file=world.folder / "none.pem"))) == "tls"


ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "a redirect": ({"status": 302, "headers": {"location": "https://evil.example/"}}, "redirect"),
    "gone": ({"status": 410}, "gone"),
    "not found": ({"status": 404}, "gone"),
    "an error": ({"status": 500}, "status"),
    "no content": ({"status": 204, "body": b""}, "status"),
    "too much": ({"body": b" " * (MAX_BUNDLE_BYTES + 1)}, "too_large"),
    "compressed": ({"body": gzip.compress(b"{}"), "headers": {"content-encoding": "gzip"}}, "encoded"),
    "no JSON": ({"body": b"<html>"}, "malformed"),
    "a member twice": ({"body": b'{"keys":[],"keys":[]}'}, "malformed"),
    "no keys": ({"body": b'{"spiffe_sequence":9}'}, "malformed"),
    "a sequence that is no number": ({"body": b'{"keys":[],"spiffe_sequence":"9"}'}, "malformed"),
    "half an answer": ({"length": 100_000}, "unreachable"),
}


@pytest.mark.parametrize("which", ANSWERS)
async def test_an_answer_that_is_no_bundle_changes_nothing(world: World, which: str) -> None:
    feed = world.feed()
    assert await world.outcome(feed) == "ok"
    held, version = feed.held, feed.version
    changes, outcome = ANSWERS[which]
    for name, value in changes.items():
        setattr(world.endpoint, name, value)
    assert await world.outcome(feed) == outcome
    assert (feed.held, feed.version) == (held, version)
    assert feed.health(world.now()).state == "failing"
    assert all(path == "/bundle.json" for path in world.endpoint.paths)


async def test_an_endpoint_that_is_down_is_asked_again_and_what_is_held_serves_until_it_is_stale(
    world: World,
) -> None:
    feed = world.feed(world.by_web(max_age_s=3600.0))
    federation = Federation([feed])
    assert await world.outcome(feed) == "ok"
    await world.endpoint.__aexit__()
    assert await world.outcome(feed) == "unreachable"
    assert await world.outcome(feed) == "unreachable"
    assert [news for _, _, news in world.told] == [True, True, False]
    assert federation.at(world.now()).stale == frozenset()
    before = federation.latest.generation
    world.ahead = 3601.0
    assert federation.at(world.now()).stale == {DOMAIN}
    assert federation.latest.generation > before, "what was judged good is judged again"
    assert feed.health(world.now()).state == "stale"


# --- sequences, and a restart


async def test_a_sequence_that_goes_backwards_is_refused_also_after_a_restart(world: World) -> None:
    old = FakeCa(DOMAIN, now=time.time())
    feed = world.feed()
    assert await world.outcome(feed) == "ok"
    for again in (feed, world.feed()):
        world.endpoint.body = document(old, sequence=2)
        assert await world.outcome(again) == "sequence_back"
        world.endpoint.body = document(old, sequence=3)
        assert await world.outcome(again) == "sequence_reused"
        world.endpoint.body = document(old, world.ca)
        assert await world.outcome(again) == "sequence_missing"
        assert again.held is not None
        assert again.held.bundle.x509 == (world.ca.der,)
        world.endpoint.body = document(world.ca, sequence=3)
        assert await world.outcome(again) == "ok"
    world.endpoint.body = document(old, world.ca, sequence=4)
    assert await world.outcome(feed) == "ok"


async def test_the_same_keys_in_another_order_or_spelling_are_the_same(world: World) -> None:
    other = FakeCa(DOMAIN, now=time.time())
    world.endpoint.body = document(world.ca, other, sequence=5)
    feed = world.feed()
    assert await world.outcome(feed) == "ok"
    world.endpoint.body = json.dumps(json.loads(document(other, world.ca, sequence=5)), indent=3).encode()
    assert await world.outcome(feed) == "ok"
    assert world.told[-1] == (DOMAIN, "ok", False)


async def test_an_empty_bundle_of_a_later_sequence_distrusts(world: World) -> None:
    feed = world.feed()
    assert await world.outcome(feed) == "ok"
    world.endpoint.body = document(sequence=4)
    assert await world.outcome(feed) == "ok"
    assert Federation([feed]).at(world.now()).x509 == {DOMAIN: ()}


async def test_what_was_accepted_is_kept_for_the_broker_alone_and_counts_after_a_restart(
    world: World,
) -> None:
    assert await world.outcome(world.feed()) == "ok"
    (path,) = (world.folder / "federation").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = world.feed()
    assert again.held is not None
    assert again.held.bundle.x509 == (world.ca.der,)
    assert Federation([again]).at(world.now()).x509 == {DOMAIN: (world.ca.der,)}
    world.ahead = 7 * 3600.0
    assert Federation([world.feed()]).at(world.now()).stale == {DOMAIN}


async def test_a_memory_that_cannot_be_read_is_no_empty_memory(world: World) -> None:
    assert await world.outcome(world.feed()) == "ok"
    (path,) = (world.folder / "federation").iterdir()
    whole = path.read_bytes()
    other = whole.replace(DOMAIN.encode(), b"c.test")
    for bad in (b"", whole[:-9], b"{}", b"[]", other, whole.replace(b'"v": 1', b'"v": 2')):
        path.write_bytes(bad)
        with pytest.raises(BundleNotTaken, match="unreadable"):
            world.feed()
    path.write_bytes(whole)
    assert world.feed().held is not None


async def test_a_full_disk_does_not_keep_an_old_key_alive(world: World) -> None:
    feed = world.feed()
    assert await world.outcome(feed) == "ok"
    folder = world.folder / "federation"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    world.endpoint.body = document(sequence=4)
    assert await world.outcome(feed) == "ok"
    assert feed.held is not None
    assert feed.held.bundle.x509 == ()
    assert "cannot be written" in feed.health(world.now()).detail


# --- https_spiffe


async def test_the_endpoint_is_known_by_the_bootstrap_bundle_at_first(spiffe: World) -> None:
    feed = spiffe.feed(spiffe.by_spiffe())
    assert feed.held is None, "callers are not believed by the bootstrap bundle"
    assert await spiffe.outcome(feed) == "ok"
    stranger = FakeCa(DOMAIN, now=time.time())
    path = spiffe.folder / "other.json"
    path.write_bytes(document(stranger, sequence=1))
    (spiffe.folder / "federation" / f"bundle-{DOMAIN}.json").unlink()
    assert await spiffe.outcome(spiffe.feed(spiffe.by_spiffe(bootstrap=path))) == "tls"


async def test_only_the_named_workload_is_the_endpoint(spiffe: World) -> None:
    assert await spiffe.outcome(spiffe.feed(spiffe.by_spiffe())) == "ok"
    other = spiffe.by_spiffe(endpoint_id="spiffe://b.test/other")
    assert await spiffe.outcome(spiffe.feed(other)) == "tls"
    foreign = FakeCa("c.test", now=time.time())
    async with Endpoint(server_tls(foreign.issue(SPIRE))) as forged:
        forged.body = spiffe.endpoint.body
        assert await spiffe.outcome(spiffe.feed(spiffe.by_spiffe(url=forged.url))) == "tls"


async def test_after_a_rotation_the_last_accepted_bundle_knows_the_endpoint(spiffe: World) -> None:
    successor = FakeCa(DOMAIN, now=time.time())
    feed = spiffe.feed(spiffe.by_spiffe())
    spiffe.endpoint.body = document(spiffe.ca, successor, sequence=4)
    assert await spiffe.outcome(feed) == "ok"
    async with Endpoint(server_tls(successor.issue(SPIRE))) as rotated:
        rotated.body = document(successor, sequence=5)
        for again in (feed, spiffe.feed(spiffe.by_spiffe(url=rotated.url))):
            again_at = Feed(spiffe.by_spiffe(url=rotated.url), again._memory, spiffe.around())
            again_at.load()
            assert await spiffe.outcome(again_at) == "ok"
    old = spiffe.feed(spiffe.by_spiffe())
    assert await spiffe.outcome(old) == "tls", "the authority that went is believed no more"


async def test_a_bootstrap_bundle_bounds_the_sequence_and_a_later_one_helps(spiffe: World) -> None:
    assert await spiffe.outcome(spiffe.feed(spiffe.by_spiffe())) == "ok"
    path = spiffe.folder / "later.json"
    path.write_bytes(document(spiffe.ca, sequence=9))
    later = spiffe.feed(spiffe.by_spiffe(bootstrap=path))
    assert await spiffe.outcome(later) == "sequence_back"
    spiffe.endpoint.body = document(spiffe.ca, sequence=9)
    assert await spiffe.outcome(later) == "ok"


async def test_an_endpoint_of_another_domain_is_known_by_that_domains_bundle(spiffe: World) -> None:
    home = FakeCa("a.test", now=time.time())
    async with Endpoint(server_tls(home.issue("spiffe://a.test/mirror"))) as mirror:
        mirror.body = document(spiffe.ca, sequence=2)
        partner = spiffe.by_spiffe(url=mirror.url, endpoint_id="spiffe://a.test/mirror", bootstrap=None)
        feed = spiffe.feed(partner)
        assert await spiffe.outcome(feed) == "tls", "of that domain nothing is known"
        spiffe.roots["a.test"] = (home.der,)
        assert await spiffe.outcome(feed) == "ok"


async def test_a_bootstrap_bundle_that_is_none_is_told_at_start(spiffe: World) -> None:
    good = spiffe.by_spiffe()
    assert spiffe.feed(good)
    (spiffe.folder / "first.json").write_text("{")
    with pytest.raises(BundleNotTaken, match="malformed"):
        spiffe.feed(good)
    with pytest.raises(BundleNotTaken, match="unreadable"):
        spiffe.feed(replace(good, bootstrap=spiffe.folder / "none.json"))


# --- the work in the background


async def test_it_polls_at_the_publishers_pace_and_faster_after_failures(world: World) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        world.endpoint.status = 200 if len(waits) == 4 else 500
        if len(waits) == 5:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await world.feed(sleep=sleep).run()
    assert waits == [60.0, 5.0, 10.0, 20.0, 60.0]


async def test_a_fault_of_ours_does_not_end_the_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    seen: list[tuple[str, str, str]] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        told = feed.health(time.time())
        seen.append((told.state, told.why, told.detail))
        monkeypatch.undo()
        if len(waits) == 2:
            raise asyncio.CancelledError

    feed = world.feed(sleep=sleep)
    monkeypatch.setattr(feed, "_check", lambda offered: 1 / 0)
    with pytest.raises(asyncio.CancelledError):
        await feed.run()
    assert waits == [5.0, 60.0]
    assert feed.held is not None
    assert seen[0] == ("starting", "fault", "ZeroDivisionError: the log has it")
    assert seen[1][:2] == ("ok", "ok")


async def test_a_poll_that_is_stopped_in_the_middle_of_tls_leaves_no_connection(world: World) -> None:
    """The endpoint sees the end at once: nothing waits for a garbage collector, which is off here."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)  # the handshake's first record has begun; it gets no answer
        begun.set()
        while await reader.read(4096):
            pass
        ended.set()
        writer.close()

    assert await fetch(world.by_web(), (), time.time) == world.endpoint.body
    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    partner = world.by_web(url=f"https://localhost:{port}/")
    gc.disable()
    try:
        poll = asyncio.create_task(fetch(partner, (), time.time))
        await begun.wait()
        poll.cancel()
        await asyncio.wait([poll])
        assert poll.cancelled()
        async with asyncio.timeout(5):
            await ended.wait()
    finally:
        gc.enable()
        server.close()
