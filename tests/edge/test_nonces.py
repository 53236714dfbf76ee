"""Nonces of our own clock: recent ones of this store, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.edge.nonces import WINDOW_S, Nonces

NOW = 1_800_000_000.0
OURS = Nonces(b"s" * 32)


def test_a_fresh_one_serves_for_two_minutes_at_least_and_three_at_most() -> None:
    for moment in (NOW, NOW + WINDOW_S - 0.001):
        nonce = OURS.fresh(moment)
        assert OURS.is_ours(nonce, moment)
        assert OURS.is_ours(nonce, moment + 2 * WINDOW_S)
        assert not OURS.is_ours(nonce, moment + 3 * WINDOW_S)


def test_another_broker_of_the_same_store_takes_it_and_may_be_a_little_behind() -> None:
    nonce = OURS.fresh(NOW)
    assert Nonces(b"s" * 32).is_ours(nonce, NOW)
    assert Nonces(b"s" * 32).is_ours(nonce, NOW - WINDOW_S)
    assert not Nonces(b"s" * 32).is_ours(nonce, NOW - 2 * WINDOW_S)
    assert not Nonces(b"t" * 32).is_ours(nonce, NOW)


def test_none_and_what_is_no_nonce_are_not_ours() -> None:
    assert OURS.is_ours(OURS.fresh(NOW), NOW)
    for bad in (None, "", "a", "=" * 40, "é" * 32, "A" * 32, "A" * 65, OURS.fresh(NOW) + "A"):
        assert not OURS.is_ours(bad, NOW)


@given(st.binary(min_size=24, max_size=24))
def test_a_guess_is_never_ours(guess: bytes) -> None:
    from stepwrit.digest import b64u

    assert b64u(guess) == OURS.fresh(NOW) or not OURS.is_ours(b64u(guess), NOW)
