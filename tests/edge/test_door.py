"""Whose requests are counted together."""

from __future__ import annotations

import pytest

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.edge.http import Request
from stepwrit_broker.edge.pages.door import Door


def of(address: str) -> Request:
    return Request(scope={"client": (address, 1)}, method="GET", path="/", body=b"")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("198.51.100.1", "198.51.100.2"),
        ("::ffff:198.51.100.1", "::ffff:198.51.100.2"),
        ("2001:db8:0:1::1", "2001:db8:0:2::1"),
    ],
)
def test_who_knocks_too_often_shuts_out_nobody_else(one: str, other: str) -> None:
    door = Door(burst=1, every_s=10.0)
    door.check(of(one), 0.0)
    with pytest.raises(Refused, match="too many requests"):
        door.check(of(one), 0.0)
    door.check(of(other), 0.0)


@pytest.mark.parametrize(
    ("one", "other"), [("2001:db8::1", "2001:db8::ffff"), ("198.51.100.1", "::ffff:198.51.100.1")]
)
def test_one_household_is_counted_once(one: str, other: str) -> None:
    door = Door(burst=2, every_s=10.0)
    door.check(of(one), 0.0)
    door.check(of(other), 0.0)
    with pytest.raises(Refused, match="too many requests"):
        door.check(of(other), 0.0)
