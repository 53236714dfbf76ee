from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.facts import PostgresFacts, RedisFacts, surely_off
from stepwrit_broker.store.fleet.promises import STATED, judge, stated
from stepwrit_broker.store.fleet.redis.wire import Login
from stepwrit_broker.wiring.fleet_engines import sslmode

REDIS = RedisFacts(
    node="10.0.0.1:6379",
    mode="sentinel",
    version="7.0.15",
    role="master",
    run_id="a" * 40,
    replicas=2,
    used_memory=1,
    clock_offset_s=0.01,
    is_tls=True,
    user="stepwrit",
    maxmemory=1 << 30,
    maxmemory_policy="noeviction",
    appendonly="yes",
    appendfsync="everysec",
    save="",
    min_replicas_to_write="1",
    min_replicas_max_lag="10",
    sentinels=3,
    quorum=2,
)
POSTGRES = PostgresFacts(
    node="10.0.0.2:5432",
    version=150006,
    is_standby=False,
    is_read_only=False,
    fsync="on",
    full_page_writes="on",
    synchronous_commit="on",
    synchronous_standby_names="ANY 1 (a, b)",
    sync_standbys=2,
    wal_sync_method="fdatasync",
    data_checksums="on",
    server_encoding="UTF8",
    clock_offset_s=-0.01,
    is_superuser=False,
    is_tls=True,
    max_connections=100,
)
DOC = (Path(__file__).parents[2] / "docs/explanation/fleet-promises.md").read_text()
WRONG: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("redis.role=slave", {"role": "slave"}, {}, False),
    ("redis.version=6.2.7", {"version": "6.2.7"}, {}, True),
    ("redis.maxmemory-policy=allkeys-lru", {"maxmemory_policy": "allkeys-lru"}, {}, True),
    ("redis.maxmemory-policy=unknown", {"maxmemory_policy": None}, {}, True),
    ("redis.tls=off", {"is_tls": False}, {}, True),
    ("redis.clock=off", {"clock_offset_s": 0.26}, {}, False),
    ("postgres.standby=on", {}, {"is_standby": True, "is_read_only": True}, False),
    ("postgres.read_only=on", {}, {"is_read_only": True}, False),
    ("postgres.version=130009", {}, {"version": 130009}, False),
    ("postgres.server_encoding=SQL_ASCII", {}, {"server_encoding": "SQL_ASCII"}, False),
    ("postgres.fsync=off", {}, {"fsync": "off"}, True),
    ("postgres.full_page_writes=off", {}, {"full_page_writes": "off"}, True),
    ("postgres.synchronous_commit=off", {}, {"synchronous_commit": "off"}, True),
    ("postgres.synchronous_commit=local", {}, {"synchronous_commit": "local"}, True),
    ("postgres.role=superuser", {}, {"is_superuser": True}, True),
    ("postgres.tls=off", {}, {"is_tls": False}, True),
    ("postgres.tls=require", {}, {"sslmode": "require"}, True),
    ("postgres.tls=verify-ca", {}, {"sslmode": "verify-ca"}, True),
    ("postgres.clock=off", {}, {"clock_offset_s": -0.3}, False),
]


def test_settings_that_keep_the_promise_are_served_with() -> None:
    judged = judge([REDIS], POSTGRES, [])
    judged.check()
    assert (judged.refused, judged.accepted, judged.metrics) == ((), (), {})
    assert judged.readyz() == {"refused": [], "accepted": [], "unused_accept": []}
    assert {each.setting for each in judged.promises} == {
        "redis.appendfsync",
        "redis.replicas",
        "redis.min-replicas-to-write",
        "redis.sentinel",
        "postgres.synchronous_commit",
        "postgres.synchronous_standby_names",
        "postgres.data_checksums",
    }


@pytest.mark.parametrize(("name", "redis", "postgres", "may_accept"), WRONG, ids=lambda each: str(each)[:40])
def test_one_that_cannot_is_refused_by_name_unless_it_is_accepted(
    name: str, redis: dict[str, Any], postgres: dict[str, Any], may_accept: bool
) -> None:
    of_redis, of_postgres = replace(REDIS, **redis), replace(POSTGRES, **postgres)
    judge([REDIS], POSTGRES, []).check()
    judged = judge([REDIS, of_redis], of_postgres, [])
    assert [each.name for each in judged.refused] == [name]
    with pytest.raises(Unavailable) as refused:
        judged.check()
    assert refused.value.rule == name
    assert (f'accept = ["{name}"]' in refused.value.reason) is may_accept
    lived = judge([REDIS, of_redis], of_postgres, [name])
    assert [each.name for each in lived.accepted] == [name] * may_accept
    assert lived.metrics == ({name: 1.0} if may_accept else {})
    if may_accept:
        lived.check()
        assert any(name in line for line in lived.readyz()["accepted"])  # type: ignore[attr-defined]
        assert any(name in line for line in lived.facts()["accepted"])  # type: ignore[attr-defined]
    assert f"`{name.partition('=')[0]}`" in DOC


def test_redis_own_durability_is_told_and_never_refused() -> None:
    bare = replace(
        REDIS,
        appendonly="no",
        appendfsync="no",
        replicas=0,
        min_replicas_to_write="0",
        maxmemory=0,
        sentinels=2,
        quorum=1,
    )
    judged = judge([bare], replace(POSTGRES, synchronous_standby_names="", data_checksums="off"), [])
    judged.check()
    told = {each.setting: (each.value, each.means) for each in judged.promises}
    assert told["redis.appendfsync"][0] == "off"
    assert "waits for its restart" in told["redis.replicas"][1]
    assert "truth takes nothing of it" in told["redis.min-replicas-to-write"][1]
    assert "needlessly" in told["redis.sentinel"][1]
    assert told["postgres.synchronous_standby_names"][0] == "none"
    for setting in told:
        assert f"`{setting}`" in DOC


def test_without_tls_only_this_machine_is_spoken_to() -> None:
    for node in ("127.0.0.1:6379", "localhost:6379", "[::1]:6379", "/run/redis.sock"):
        judge([replace(REDIS, node=node, is_tls=False)], POSTGRES, []).check()
    for node in ("::12:6379", "128.0.0.1:6379", "localhost.example:6379"):
        assert judge([replace(REDIS, node=node, is_tls=False)], POSTGRES, []).refused
    judge([REDIS], replace(POSTGRES, sslmode="local", is_tls=False), []).check()
    says_so = replace(POSTGRES, node="127.0.0.1:5432", is_tls=False)  # whoever answers says what it likes
    assert [each.name for each in judge([REDIS], says_so, []).refused] == ["postgres.tls=off"]


@pytest.mark.parametrize(
    ("dsn", "mode"),
    [
        ("postgresql://u@127.0.0.1:5432/d", "local"),
        ("postgresql://u:p@localhost/d?sslmode=disable", "local"),
        ("postgresql://u@[::1]:5432/d", "local"),
        ("postgresql://u@%2Frun%2Fpostgresql/d", "local"),
        ("postgresql://u@/d?host=/run/postgresql", "local"),
        ("postgresql://u@db.example/d?sslmode=verify-full", "verify-full"),
        ("postgresql://u@a.example,b.example/d?sslmode=verify-full&sslmode=require", "require"),
        ("postgresql://u@db.example/d", "prefer"),
        ("postgresql://u@localhost,db.example/d", "prefer"),
        ("postgresql://u@localhost/d?host=db.example", "prefer"),
        ("postgresql://u@localhost.example/d?sslmode=verify_ca", "verify-ca"),
        ("postgresql://127.0.0.1@db.example/d?sslmode=require", "require"),
        ("postgresql:///d", "prefer"),
    ],
)
def test_how_a_server_is_made_sure_of_is_what_our_side_was_told(dsn: str, mode: str) -> None:
    assert sslmode(dsn) == mode


def test_redis_over_tls_is_made_sure_of_by_chain_and_name() -> None:
    made = Login(is_tls=True).connection(("redis.example", 6379))
    assert isinstance(made, SSLConnection)
    assert (made.ssl_context.cert_reqs, made.ssl_context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_what_is_accepted_and_not_found_is_told() -> None:
    assert judge([REDIS], POSTGRES, ["postgres.fsync=off"]).unused == ("postgres.fsync=off",)


def test_what_is_stated_holds_only_for_what_cannot_be_asked() -> None:
    managed = replace(REDIS, maxmemory_policy=None, appendfsync=None)
    said = stated(managed, ["maxmemory-policy=noeviction", "appendfsync=always", "save=never"])
    assert (said.maxmemory_policy, said.appendfsync, said.save) == ("noeviction", "always", "")
    judge([said], POSTGRES, []).check()
    lying = stated(replace(REDIS, maxmemory_policy="allkeys-lru"), ["maxmemory-policy=noeviction"])
    assert judge([lying], POSTGRES, []).refused
    for wrong in ("maxmemory_policy=noeviction", "timeout=3", "appendfsync="):
        with pytest.raises(ValueError, match=re.escape(repr(wrong))):
            stated(managed, [wrong])
    assert all(f"`{name}`" in DOC for name in STATED)


@pytest.mark.parametrize(
    ("theirs", "answered", "off"),
    [(100.5, 101.0, 0.0), (101.0, 101.0, 0.0), (101.5, 101.0, 0.5), (99.0, 101.0, -1.0), (100.5, 100.0, 0.5)],
)
def test_a_slow_answer_is_no_wrong_clock(theirs: float, answered: float, off: float) -> None:
    assert surely_off(theirs, 100.0, answered) == pytest.approx(off)
