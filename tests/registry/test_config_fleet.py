"""[fleet] of broker.toml: what is taken, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwrit_broker.config import Config, parse_config
from stepwrit_broker.config_fleet import SHARDS_MAX, with_password
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.store.fleet import seams

HEAD = 'trust_domain = "prod.example"\nissuer = "https://broker.example:8444"\nspiffe_socket = "unix:///a"\n'
FLEET = {
    "redis": '"rediss+sentinel://stepwrit@r1,r2:26380,r3/main"',
    "postgres": '"postgresql://stepwrit@db.example/stepwrit?sslmode=verify-full"',
}


def read(**settings: str) -> Config:
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    return parse_config(f"{HEAD}[fleet]\n{lines}\n", name="broker.toml", folder=Path("/etc/stepwrit"), env={})


def test_without_it_the_broker_is_alone() -> None:
    assert not read().fleet.is_on


def test_what_is_named_is_taken() -> None:
    fleet = read(
        **FLEET, redis_password_file='"redis.password"', accept='["postgres.full_page_writes=off"]'
    ).fleet
    assert fleet.is_on
    assert fleet.redis_password_file == Path("/etc/stepwrit/redis.password")
    assert (fleet.name, fleet.shards, fleet.postgres_commit) == ("stepwrit", 16, "on")
    assert SHARDS_MAX == seams.SHARDS_MAX


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"postgres": '""'}, "fleet.redis: needs postgres"),
        ({"redis": '"http://r1"'}, "fleet.redis: must begin with one of redis,"),
        ({"redis": '"redis://"'}, "fleet.redis: must begin with one of"),
        ({"redis": '"redis://u:hunter2@r1"'}, "fleet.redis: must hold no password"),
        ({"postgres": '"postgresql://u:hunter2@db/x"'}, "fleet.postgres: must hold no password"),
        ({"postgres": '"postgresql://u@db/x?password=hunter2"'}, "fleet.postgres: must hold no password"),
        ({"redis_cert_file": '"c"'}, "fleet.redis_cert_file: needs redis_key_file"),
        ({"redis": '"redis://r1"', "redis_ca_file": '"ca"'}, "fleet.redis_ca_file: is for rediss://"),
        ({"name": '"a fleet"'}, "fleet.name: must be 1 to 32"),
        ({"shards": "257"}, "fleet.shards: must be at most 256"),
        ({"shards": "0"}, "fleet.shards: must be at least 1"),
        ({"accept": '["fsync"]'}, "fleet.accept: 'fsync' is not like"),
        ({"redis_stated": '["noeviction"]'}, "fleet.redis_stated: 'noeviction' is not like"),
        ({"postgres_commit": '"off"'}, "fleet.postgres_commit: must be one of on, remote_apply"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_repeats_no_secret(change: dict[str, str], said: str) -> None:
    read(**FLEET)
    with pytest.raises(Malformed) as refused:
        read(**(FLEET | change))
    assert said in refused.value.reason
    assert "hunter2" not in refused.value.reason


def test_a_password_goes_into_the_url_whatever_it_is_made_of() -> None:
    assert with_password("rediss://u@h:1/0", "a/b@c:d%") == "rediss://u:a%2Fb%40c%3Ad%25@h:1/0"
    assert with_password("redis://h", "x") == "redis://:x@h"
    assert with_password("redis://u@h", "") == "redis://u@h"
