"""What replaces a held bundle, how long it counts, when to ask again: for all numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.federation import (
    JITTER,
    REFRESH_MAX_S,
    REFRESH_MIN_S,
    Revision,
    is_stale,
    refresh_s,
    refusal,
    wait_s,
)

SEQUENCES = st.one_of(st.none(), st.integers(0, 2**64 - 1), st.integers(0, 3))
REVISIONS = st.builds(Revision, sequence=SEQUENCES, digest=st.sampled_from("abc"))
TIMES = st.floats(0, 4e9)


def test_forward_and_the_same_are_taken_and_back_other_and_unnumbered_are_not() -> None:
    held = Revision(sequence=5, digest="a")
    assert refusal(held, Revision(sequence=6, digest="b")) is None
    assert refusal(held, Revision(sequence=5, digest="a")) is None
    assert refusal(held, Revision(sequence=4, digest="b")) == "sequence_back"
    assert refusal(held, Revision(sequence=4, digest="a")) == "sequence_back"
    assert refusal(held, Revision(sequence=5, digest="b")) == "sequence_reused"
    assert refusal(held, Revision(sequence=None, digest="a")) == "sequence_missing"
    assert refusal(None, Revision(sequence=0, digest="a")) is None


@given(st.lists(REVISIONS, max_size=30))
def test_whatever_is_offered_the_numbers_held_never_fall_and_one_number_is_one_bundle(
    offers: list[Revision],
) -> None:
    held: Revision | None = None
    numbered: dict[int, str] = {}
    last = -1
    for offered in offers:
        if refusal(held, offered) is None:
            held = offered
            if offered.sequence is not None:
                assert offered.sequence >= last
                last = offered.sequence
                assert numbered.setdefault(offered.sequence, offered.digest) == offered.digest
            assert offered.sequence is not None or last == -1, "numbers, once begun, do not stop"


@given(REVISIONS)
def test_what_is_held_may_always_be_confirmed(held: Revision) -> None:
    assert refusal(held, held) is None


@given(TIMES, st.floats(60, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_stale_stays_stale_until_it_is_confirmed(at: float, age: float, a: float, b: float) -> None:
    earlier, later = sorted((a, b))
    assert not is_stale(at, at, age)
    if is_stale(at, at + earlier, age):
        assert is_stale(at, at + later, age)
    assert is_stale(at, at + age + 1, age)


def test_a_confirmation_from_the_future_confirms_nothing() -> None:
    assert not is_stale(1000.0, 990.0, 60.0)
    assert is_stale(1000.0, 900.0, 60.0)


@given(st.floats(0, 1e12), st.floats(60, 1e9))
def test_polls_are_never_too_rare_nor_too_frequent(hint: float, age: float) -> None:
    refresh = refresh_s(hint, age)
    assert REFRESH_MIN_S <= refresh <= REFRESH_MAX_S
    assert refresh * 3 <= age * 1.000001


@given(st.floats(REFRESH_MIN_S, REFRESH_MAX_S), st.integers(0, 10_000), st.floats(0, 1))
def test_waits_are_bounded_and_grow_with_failures(refresh: float, failures: int, luck: float) -> None:
    wait = wait_s(refresh, failures, luck)
    assert REFRESH_MIN_S * (1 - JITTER) <= wait <= refresh * (1 + JITTER)
    assert wait_s(refresh, failures + 1, luck) >= wait or failures == 0
