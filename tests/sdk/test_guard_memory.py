"""What the guard remembers: published keys, and proofs already seen. Both are bounded."""

from __future__ import annotations

import asyncio

import pytest

from stepwrit._guard_keys import (
    BURST,
    KEYS_MAX_AGE_S,
    WINDOW_S,
    ProofsFull,
    PublishedKeys,
    SeenProofs,
    credential_keys,
    kid_of,
    signed_with,
)
from stepwrit.errors import UnavailableError
from stepwrit.jws import SigningKey, VerifyKey
from stepwrit.wire import Refusal


class Issuer:
    """Publishes keys, counts how often it is asked, and can be out of reach."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.asked = 0
        self.reachable = True
        self.published: dict[str, VerifyKey] = {}
        self.rotate("at-1")
        self.keys = PublishedKeys(self.fetch, lambda: self.now)

    def rotate(self, kid: str) -> SigningKey:
        key = SigningKey.generate(kid=kid)
        self.published = {kid: key.verify_key}
        return key

    async def fetch(self) -> dict[str, VerifyKey]:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.reachable:
            raise UnavailableError(Refusal(code="unavailable", reason="down"))
        return self.published


async def test_keys_are_asked_for_once_however_many_wait_for_them() -> None:
    issuer = Issuer()
    every = await asyncio.gather(*(issuer.keys.holding("at-1") for _ in range(20)))
    assert issuer.asked == 1
    assert all(set(keys) == {"at-1"} for keys in every)


async def test_a_new_key_is_found_when_a_token_names_it() -> None:
    issuer = Issuer()
    await issuer.keys.holding("at-1")
    for kid in ("at-2", "at-3"):  # a broker that is restarted twice within seconds
        issuer.rotate(kid)
        assert set(await issuer.keys.holding(kid)) == {kid}


async def test_made_up_key_ids_do_not_make_the_guard_ask_again_and_again() -> None:
    issuer = Issuer()
    for at in range(100):
        await issuer.keys.holding(f"at-made-up-{at}")
        issuer.now += WINDOW_S / 200
    assert issuer.asked == 1 + BURST
    issuer.now += WINDOW_S
    issuer.rotate("at-2")
    assert set(await issuer.keys.holding("at-2")) == {"at-2"}


async def test_keys_that_are_too_old_do_not_count() -> None:
    issuer = Issuer()
    await issuer.keys.all()
    issuer.reachable = False
    issuer.now += KEYS_MAX_AGE_S - 1
    assert set(await issuer.keys.all()) == {"at-1"}
    issuer.now += 1
    with pytest.raises(UnavailableError):
        await issuer.keys.all()


async def test_a_clock_that_went_back_makes_the_keys_doubtful() -> None:
    issuer = Issuer()
    await issuer.keys.all()
    issuer.now -= 1
    await issuer.keys.all()
    assert issuer.asked == 2


def test_only_credential_keys_verify_credentials() -> None:
    key = SigningKey.generate().verify_key
    assert set(credential_keys({"at-1": key, "st-1": key, "other": key})) == {"at-1"}


def test_a_token_is_ours_when_any_of_our_keys_signed_it_whatever_it_says() -> None:
    ours, foreign = SigningKey.generate(kid="st-1"), SigningKey.generate(kid="st-1")
    keys = {"st-1": ours.verify_key}
    token = ours.sign("anything", {"x": 1})
    assert signed_with(keys, token)
    assert kid_of(token) == "st-1"
    for other in (foreign.sign("anything", {"x": 1}), "rubbish", ours.sign("t", {}, embed_jwk=True)):
        assert not signed_with(keys, other)


def test_a_proof_is_new_once_per_key() -> None:
    seen = SeenProofs()
    assert seen.first("key", "jti", until=10, now=0)
    assert seen.first("another key", "jti", until=10, now=0)
    assert not seen.first("key", "jti", until=10, now=0)
    assert not seen.first("key", "jti", until=10, now=10)


def test_old_proofs_make_room_and_a_full_window_refuses_rather_than_forgets() -> None:
    seen = SeenProofs(limit=2)
    assert seen.first("key", "1", until=10, now=0)
    assert seen.first("key", "2", until=10, now=0)
    with pytest.raises(ProofsFull):
        seen.first("key", "3", until=10, now=0)
    assert not seen.first("key", "1", until=10, now=0)
    assert seen.first("key", "3", until=30, now=11)
