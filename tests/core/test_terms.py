"""What a policy may demand of signatures, and what nobody could give."""

from __future__ import annotations

import pytest

from stepwrit_broker.core.terms import RequesterWord, Terms, terms, together

TWO = ("bob", "carol")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (terms(), Terms()),
        (terms(requester="may sign"), Terms()),
        (terms(approvers=TWO), Terms(persons=frozenset(TWO), requester=False)),
        (terms(approvers=TWO, requester="may sign"), Terms(persons=frozenset(TWO))),
        (terms(approvers=TWO, requester="not alone"), Terms(persons=frozenset(TWO), alone=False)),
        (terms(2, TWO), Terms(count=2, persons=frozenset(TWO), requester=False)),
        (terms(3, TWO, "not alone"), Terms(count=3, persons=frozenset(TWO), alone=False)),
    ],
)
def test_what_is_said_and_what_it_means(said: Terms, meant: Terms) -> None:
    assert said == meant


@pytest.mark.parametrize(
    ("signatures", "approvers", "requester"),
    [
        (1, (), "may not sign"),
        (1, (), "not alone"),
        (2, (), "may sign"),
        (2, (), None),
        (3, TWO, "may not sign"),
        (3, TWO, None),
        (4, TWO, "not alone"),
        (0, TWO, None),
        (-1, (), None),
    ],
)
def test_terms_that_nobody_could_satisfy_are_none(
    signatures: int, approvers: tuple[str, ...], requester: RequesterWord | None
) -> None:
    assert terms(2, TWO, "may sign")
    with pytest.raises(ValueError, match=r"nobody could sign|persons who may sign"):
        terms(signatures, approvers, requester)


def test_terms_are_told_in_words_and_put_in_one_order() -> None:
    two = terms(2, ("carol", "bob"), "not alone")
    assert str(Terms()) == "1 of requester"
    assert str(two) == "2 of requester (not alone), bob, carol"
    assert together([two, Terms(), two]) == together([Terms(), two]) == (Terms(), two)
