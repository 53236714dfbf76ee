"""doctor on the ledger's witnesses, from what the broker tells of them."""

from typing import Any

from stepwrit_broker.cli.checks import witnesses


def told(**one: Any) -> dict[str, Any]:
    good = {"name": "w1", "cosigned": 9, "failing": None, "doubt": None}
    return {"asked": [{**good, **one}], "doubts": []}


def test_a_witness_that_follows_is_good():
    (check,) = witnesses(told())
    assert (check.ok, check.said) == (True, "w1 to 9")


def test_none_at_all_and_a_silent_one_are_warnings():
    assert [each.ok for each in witnesses({})] == [None]
    (check,) = witnesses(told(failing="it cannot be reached"))
    assert (check.ok, "cannot be reached" in check.said) == (None, True)
    (check,) = witnesses({**told(), "doubts": ["no quorum"]})
    assert (check.ok, check.said) == (None, "no quorum")


def test_one_that_contradicts_the_ledger_fails_the_check():
    (check,) = witnesses(told(doubt="it cosigned 12 entries, here are 9", failing="the same"))
    assert (check.ok, "12 entries" in check.said, "incident" in check.todo) == (False, True, True)
