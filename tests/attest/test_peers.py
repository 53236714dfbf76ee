"""Grants of peers: by pinned keys, or by those that the peer's own broker publishes, asked for seldom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.core.test_jag import GRANT

from stepwrit.jws import SigningKey
from stepwrit.wire_chain import GRANT_MAX_S, TYP_ID_JAG
from stepwrit_broker.attest.peers import PeerKeys
from stepwrit_broker.core.errors import Problem, Unavailable
from stepwrit_broker.core.peers import Peer

KEY = SigningKey.generate(kid="gr-one")
PEER = Peer(
    name="home",
    issuer=GRANT.issuer,
    trust_domain="home.test",
    tenant="default",
    owner="ops",
    broker="spiffe://home.test/stepwrit/broker",
    url="https://broker.home.test:8443",
)
NOW = 120.0


class Published:
    """What a peer's broker answers; counts how often it is asked."""

    def __init__(self) -> None:
        self.issuer, self.keys, self.asked = GRANT.issuer, [KEY.published_jwk], 0
        self.fails: Exception | None = None

    async def get(self, peer: Peer, path: str) -> Mapping[str, Any]:
        assert peer == PEER
        if self.fails is not None:
            raise self.fails
        if path.endswith("/jwks"):
            self.asked += 1
            return {"keys": [*self.keys, {"kid": "x", "kty": "RSA"}, {}]}
        return {"issuer": self.issuer}


async def judged(
    keys: PeerKeys, key: SigningKey = KEY, now: float = NOW, peer: Peer = PEER, **claims: Any
) -> str:
    token = key.sign(TYP_ID_JAG, replace(GRANT, **claims).claims())
    found = await keys.judge(token, {peer.issuer: peer}, now)
    assert json.loads(found.text) == replace(GRANT, **claims).claims()
    return found.digest


async def rule(keys: PeerKeys, **how: Any) -> str | None:
    with pytest.raises(Problem) as no:
        await judged(keys, **how)
    return no.value.rule


async def test_keys_are_fetched_once_and_again_for_a_new_one() -> None:
    published, told = Published(), list[tuple[str, bool]]()
    keys = PeerKeys(published, lambda name, good: told.append((name, good)))
    assert await judged(keys) == await judged(keys)
    assert published.asked == 1
    fresh = SigningKey.generate(kid="gr-two")
    assert await rule(keys, key=fresh) == "key", "asked a moment ago"
    published.keys.append(fresh.published_jwk)
    await judged(keys, key=fresh, now=NOW + 10)
    assert (published.asked, told) == (2, [("home", True), ("home", True)])


async def test_without_keys_nothing_is_decided() -> None:
    published = Published()
    keys = PeerKeys(published)
    for fails, issuer in (
        (OSError("no"), GRANT.issuer),
        (ValueError("no"), GRANT.issuer),
        (None, "https://x"),
    ):
        published.fails, published.issuer = fails, issuer
        with pytest.raises(Unavailable) as doubt:
            await judged(PeerKeys(published))
        assert doubt.value.rule == "peer home"
    published.fails, published.issuer = None, GRANT.issuer
    await judged(keys)
    published.fails = OSError("gone")
    await judged(keys, now=NOW + 30)  # what is held serves for a while


async def test_pinned_keys_are_all_that_count() -> None:
    published = Published()
    keys = PeerKeys(published)
    pinned = replace(PEER, keys=(KEY.published_jwk,), broker=None, url=None)
    await judged(keys, peer=pinned)
    assert await rule(keys, peer=pinned, key=SigningKey.generate(kid="gr-three")) == "key"
    assert published.asked == 0


async def test_a_grant_has_its_time() -> None:
    keys = PeerKeys(Published())
    await judged(keys)
    assert await rule(keys, now=GRANT.exp + 6.0) == "life"
    assert await rule(keys, now=GRANT.iat - 6.0) == "life"
    assert await rule(keys, exp=GRANT.iat + GRANT_MAX_S + 1) == "life"


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 20_000])
async def test_what_is_no_token_is_no_grant(token: str) -> None:
    keys = PeerKeys(Published())
    await judged(keys)
    with pytest.raises(Problem) as no:
        await keys.judge(token, {PEER.issuer: PEER}, NOW)
    assert no.value.code == "invalid_grant"


async def test_claims_that_are_no_object_are_no_grant() -> None:
    with pytest.raises(Problem) as no:
        await PeerKeys(Published()).judge(KEY.sign_text(TYP_ID_JAG, "[]"), {PEER.issuer: PEER}, NOW)
    assert no.value.code == "invalid_grant"
