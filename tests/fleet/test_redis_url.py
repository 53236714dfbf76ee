"""Where the fleet's Redis is, from one URL; and the names of keys."""

from __future__ import annotations

import pytest

from stepwrit_broker.store.fleet.redis import RedisSwift
from stepwrit_broker.store.fleet.redis.keys import Keys
from stepwrit_broker.store.fleet.redis.url import Place, parse


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://r", Place(mode="single", is_tls=False, hosts=(("r", 6379),))),
        ("redis://r:1/3", Place(mode="single", is_tls=False, hosts=(("r", 1),), db=3)),
        (
            "rediss://me:p%40ss@r",
            Place(mode="single", is_tls=True, hosts=(("r", 6379),), username="me", password="p@ss"),
        ),
        ("redis://:p@[::1]:7", Place(mode="single", is_tls=False, hosts=(("::1", 7),), password="p")),
        (
            "redis+sentinel://a,b:2/prime/1",
            Place(mode="sentinel", is_tls=False, hosts=(("a", 26379), ("b", 2)), name="prime", db=1),
        ),
        (
            "rediss+cluster://me:p@a,b:2",
            Place(mode="cluster", is_tls=True, hosts=(("a", 6379), ("b", 2)), username="me", password="p"),
        ),
    ],
)
def test_urls(url: str, place: Place) -> None:
    assert parse(url) == place
    assert "p@ss" not in repr(place)


@pytest.mark.parametrize(
    "url",
    [
        "http://r", "r:6379", "", "redis://", "redis://a,b", "redis://r/x", "redis://r/1/2", "redis://r:x",
        "redis://r?db=1", "redis://r#f", "redis+sentinel://a,b", "redis+cluster://a/1", "redis+cluster://a,",
        "redis://me:secret@",
    ],
)  # fmt: skip
def test_urls_that_name_nothing(url: str) -> None:
    with pytest.raises(ValueError, match=r"[Rr]edis|Sentinel") as refused:
        parse(url)
    assert "secret" not in str(refused.value)


def test_a_fleet_has_a_plain_name_and_some_shards() -> None:
    assert Keys("prod-1", 256).shard(255) == "{prod-1:ff}:shard"
    for fleet, shards in (("a}b", 1), ("", 1), ("a:b", 1), ("prod", 0), ("prod", 257)):
        with pytest.raises(ValueError, match="fleet"):
            RedisSwift.of("redis://r", fleet=fleet, shards=shards)


def test_a_broker_that_connects_shows_no_password() -> None:
    swift = RedisSwift.of("redis://me:secret@r", fleet="prod", shards=1, sentinel_password="secret")
    shown = (swift, swift.__dict__, vars(swift.nodes))
    assert "secret" not in repr(shown)
