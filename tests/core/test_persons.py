"""Who counts as whom among those who approve."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.persons import Identity, Persons

IDP, OTHER = "https://idp.example", "https://other.example"
ALICE, ALICE_TOO, BOB = Identity(IDP, "alice"), Identity(OTHER, "a-17"), Identity(IDP, "bob")
LINKED = Persons({"alice": frozenset({ALICE, ALICE_TOO}), "bob": frozenset({BOB})})
NOBODY = Persons({})


def test_a_linked_pair_is_one_person_and_anyone_is_themselves() -> None:
    assert LINKED.is_same(ALICE, ALICE_TOO)
    assert NOBODY.is_same(ALICE, ALICE)
    assert not LINKED.is_same(ALICE, BOB)
    assert not NOBODY.is_same(ALICE, ALICE_TOO)
    assert (LINKED.name(ALICE_TOO), NOBODY.name(ALICE)) == ("alice", None)


def test_one_person_with_two_identities_counts_once() -> None:
    assert LINKED.at_least([ALICE, BOB]) == 2
    assert LINKED.at_least([ALICE, ALICE_TOO]) == 1


def test_unlinked_identities_of_two_issuers_may_be_one_person() -> None:
    assert NOBODY.at_least([ALICE, BOB]) == 2, "two subjects of one issuer"
    assert NOBODY.at_least([ALICE, Identity(OTHER, "x")]) == 1
    assert LINKED.at_least([BOB, Identity(OTHER, "x")]) == 1, "it may be Bob's"
    assert LINKED.at_least([BOB, ALICE_TOO]) == 2, "it is Alice's"
    assert NOBODY.at_least([]) == 0


def test_who_is_inactive_is_said_by_name_and_holds_for_every_identity() -> None:
    gone = Persons(LINKED.links, {}, frozenset({"alice"}))
    assert [gone.is_active(name) for name in ("alice", "bob", "carol", None)] == [False, True, True, True]
    assert gone.of_the_inactive() == {ALICE, ALICE_TOO}
    assert LINKED.of_the_inactive() == frozenset()


def test_an_identity_of_two_persons_is_refused() -> None:
    with pytest.raises(ValueError, match="one identity belongs to a and to b"):
        Persons({"a": frozenset({ALICE}), "b": frozenset({ALICE})})


def test_a_repr_names_no_subject() -> None:
    assert "alice" not in repr(ALICE)


identities = st.builds(
    Identity, st.sampled_from([IDP, OTHER, "https://third.example"]), st.sampled_from("pqr")
)


def partitions(items: list[Identity]) -> Iterator[list[list[Identity]]]:
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for part in partitions(rest):
        yield [[first], *part]
        for at, block in enumerate(part):
            yield [*part[:at], [first, *block], *part[at + 1 :]]


def possible(part: list[list[Identity]], persons: Persons) -> bool:
    """Whether the identities of each block can be one person's: nobody has two names or two subjects."""
    for block in part:
        if len({name for each in block if (name := persons.name(each))}) > 1:
            return False
        for one in block:
            for other in block:
                if one.issuer == other.issuer and one != other and not persons.is_same(one, other):
                    return False
    return True


@given(
    st.sets(identities, max_size=6),
    st.dictionaries(identities, st.sampled_from(["ann", "ben"]), max_size=4),
)
def test_it_never_counts_more_persons_than_there_can_be(
    spoken: set[Identity], named: dict[Identity, str]
) -> None:
    persons = Persons(
        {name: frozenset(each for each, its in named.items() if its == name) for name in named.values()}
    )
    fewest = min(len(part) for part in partitions(sorted(spoken)) if possible(part, persons))
    assert persons.at_least(spoken) <= fewest
