from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.keys.keyring import LEAD_S, ROTATE_S, Keyring

NOW, LONGEST = 1_790_000_000.0, 300.0


def ring(**more: object) -> Keyring:
    return Keyring("st", now=NOW, longest_s=LONGEST, **more)  # type: ignore[arg-type]


def test_the_first_key_signs_at_once_and_is_published_before() -> None:
    told: list[tuple[str, str]] = []
    keys = ring(published=lambda kid, thumbprint: told.append((kid, thumbprint)))
    key = keys.signing_key(NOW)
    assert told == [(key.kid, key.thumbprint)]
    assert list(keys.verify_keys(NOW)) == [key.kid]


def test_the_next_key_is_published_in_time_and_signs_when_its_turn_comes() -> None:
    keys = ring()
    first = keys.signing_key(NOW)
    early = NOW + ROTATE_S - LEAD_S
    assert keys.signing_key(early - 1) is first
    assert len(keys.verify_keys(early - 1)) == 1
    assert keys.signing_key(early) is first
    assert len(keys.verify_keys(early)) == 2
    assert keys.signing_key(NOW + ROTATE_S - 0.001) is first
    second = keys.signing_key(NOW + ROTATE_S)
    assert second is not first
    assert second.kid in keys.verify_keys(early)


def test_a_key_is_known_until_the_last_token_it_signed_is_dead_and_not_for_ever() -> None:
    keys = ring()
    first = keys.signing_key(NOW)
    last_token_ends = NOW + ROTATE_S + LONGEST
    assert first.kid in keys.verify_keys(last_token_ends)
    assert first.kid not in keys.verify_keys(last_token_ends + LEAD_S)
    keys.signing_key(NOW + 10 * ROTATE_S)
    assert first.kid not in [jwk["kid"] for jwk in keys.jwks(NOW + 10 * ROTATE_S)]


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=12))
def test_at_any_time_there_is_a_signing_key_and_it_is_published(gaps: list[float]) -> None:
    told: list[str] = []
    keys, now = ring(published=lambda kid, _: told.append(kid)), NOW
    signed: list[tuple[str, float]] = []
    for gap in gaps:
        now += gap
        key = keys.signing_key(now)
        signed.append((key.kid, now))
        assert key.kid in told
        assert key.kid in keys.verify_keys(now)
        alive = {kid for kid, at in signed if now <= at + LONGEST}
        assert alive <= keys.verify_keys(now).keys()
        assert len(keys.jwks(now)) <= 3


def test_after_a_long_sleep_a_fresh_key_signs() -> None:
    keys = ring()
    first = keys.signing_key(NOW)
    later = keys.signing_key(NOW + 100 * ROTATE_S)
    assert later is not first
    assert list(keys.verify_keys(NOW + 100 * ROTATE_S)) == [later.kid]


def test_a_clock_that_was_set_back_a_little_does_not_stop_the_signing() -> None:
    keys = ring()
    assert keys.signing_key(NOW - 3.0) is keys.signing_key(NOW)


def test_what_is_published_is_public_and_names_its_ring() -> None:
    keys = ring()
    for jwk in keys.jwks(NOW):
        assert set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
        assert jwk["kid"].startswith("st-")


def test_two_rings_share_no_key_and_no_name() -> None:
    one, other = ring(), Keyring("at", now=NOW, longest_s=LONGEST)
    assert one.verify_keys(NOW).keys().isdisjoint(other.verify_keys(NOW))
    assert one.signing_key(NOW).thumbprint != other.signing_key(NOW).thumbprint


def test_no_private_part_is_shown_by_a_repr() -> None:
    assert repr(ring().signing_key(NOW)).startswith("SigningKey(kid='st-")


@pytest.mark.parametrize("missing", ["d"])
def test_no_private_member_is_ever_in_the_key_set(missing: str) -> None:
    assert all(missing not in jwk for jwk in ring().jwks(NOW))
