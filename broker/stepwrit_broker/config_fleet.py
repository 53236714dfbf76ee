"""`[fleet]` of broker.toml: where the two engines are, and what of their settings is lived with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from stepwrit_broker.config_reader import Means

NONE: Final = Path()
SHARDS_MAX: Final = 256
REDIS_SCHEMES: Final = tuple(
    f"{scheme}{kind}" for scheme in ("redis", "rediss") for kind in ("", "+sentinel", "+cluster")
)
_ACCEPT: Final = re.compile(r"(redis|postgres)\.[a-z_-]+=\S+")
_STATED: Final = re.compile(r"[a-z-]+=.+")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTable:
    """Several brokers with one truth: Redis orders, PostgreSQL remembers. Without `redis` and `postgres` the
    broker is alone and `[store]` is its database; with both, `[store]` is not used. Passwords are in files.
    """

    redis: Annotated[
        str,
        Means(
            text="`redis://USER@HOST[:6379][/DB]`, `redis+sentinel://USER@HOST[:26379],HOST/NAME` or "
            "`redis+cluster://USER@HOST,HOST`; `rediss…` over TLS. Without a password.",
            example="rediss+sentinel://stepwrit@redis1,redis2,redis3/stepwrit",
        ),
    ] = ""
    redis_password_file: Annotated[Path, Means(text="The password of that ACL user.")] = NONE
    redis_ca_file: Annotated[Path, Means(text="A private CA, PEM. Empty: the CAs of this system.")] = NONE
    redis_cert_file: Annotated[Path, Means(text="A client certificate for Redis, PEM.")] = NONE
    redis_key_file: Annotated[Path, Means(text="Its private key, PEM.")] = NONE
    redis_sentinel_user: Annotated[str, Means(text="The ACL user at the Sentinels, where they have one.")] = (
        ""
    )
    redis_sentinel_password_file: Annotated[Path, Means(text="The password at the Sentinels.")] = NONE
    redis_timeout_s: Annotated[
        float, Means(text="How long a question to Redis may take.", unit="seconds", least=0.1)
    ] = 2.0
    redis_stated: Annotated[
        tuple[str, ...],
        Means(
            text="What a managed Redis is set to, where CONFIG GET is not allowed: "
            "`maxmemory-policy=noeviction`. What can be asked is believed over it."
        ),
    ] = ()
    postgres: Annotated[
        str,
        Means(
            text="`postgresql://USER@HOST[:5432][,HOST]/DATABASE?sslmode=verify-full&sslrootcert=/PATH`. "
            "Without a password. Several hosts with `target_session_attrs=read-write`.",
            example="postgresql://stepwrit@db.example/stepwrit?sslmode=verify-full",
        ),
    ] = ""
    postgres_password_file: Annotated[Path, Means(text="The password of that role.")] = NONE
    postgres_connections: Annotated[
        int, Means(text="Connections of this broker, beside three of its own.", least=1)
    ] = 8
    postgres_statement_s: Annotated[
        float, Means(text="How long one statement may take.", unit="seconds", least=1)
    ] = 10.0
    postgres_commit: Annotated[
        Literal["on", "remote_apply"],
        Means(text="`synchronous_commit` of the broker's own sessions. Less is not offered."),
    ] = "on"
    name: Annotated[
        str, Means(text="The fleet's name in Redis' keys, where several fleets share a Redis.")
    ] = "stepwrit"
    broker: Annotated[
        str, Means(text="This broker's name among the others. Empty: the host's name and the process.")
    ] = ""
    shards: Annotated[
        int,
        Means(
            text="Over how many slots transactions are spread. Fixed when the fleet first starts.", least=1
        ),
    ] = 16
    accept: Annotated[
        tuple[str, ...],
        Means(
            text="Weaknesses of the engines that are lived with, as the refusal at start names them: "
            "`postgres.full_page_writes=off`. Shown in /readyz, metrics and ledger."
        ),
    ] = ()

    @property
    def is_on(self) -> bool:
        """Whether this broker is one of a fleet."""
        return bool(self.redis and self.postgres)


def fleet_problems(fleet: FleetTable) -> Iterator[str]:
    """Every problem of meaning, one a line."""
    yield from (f"fleet.{problem}" for problem in (*_engines(fleet), *_files(fleet), *_words(fleet)))


def _engines(fleet: FleetTable) -> Iterator[str]:
    if bool(fleet.redis) != bool(fleet.postgres):
        yield "redis: needs postgres, and postgres needs redis; without both the broker is alone"
    for name, url, schemes in (
        ("redis", fleet.redis, REDIS_SCHEMES),
        ("postgres", fleet.postgres, ("postgresql", "postgres")),
    ):
        if not url:
            continue
        parts = urlsplit(url)
        if parts.scheme not in schemes or not parts.netloc.rpartition("@")[2]:
            yield f"{name}: must begin with one of {', '.join(schemes)}, and name a host"
        if ":" in parts.netloc.rpartition("@")[0] or "password=" in parts.query:
            yield f"{name}: must hold no password; write it to a file, 0600, and set {name}_password_file"


def _files(fleet: FleetTable) -> Iterator[str]:
    if (fleet.redis_cert_file == NONE) != (fleet.redis_key_file == NONE):
        yield "redis_cert_file: needs redis_key_file, and redis_key_file needs redis_cert_file"
    if fleet.redis and fleet.redis_ca_file != NONE and not fleet.redis.startswith("rediss"):
        yield "redis_ca_file: is for rediss://; this URL is without TLS"


def _words(fleet: FleetTable) -> Iterator[str]:
    if not _NAME.fullmatch(fleet.name):
        yield "name: must be 1 to 32 of a-z, 0-9 and -"
    if fleet.shards > SHARDS_MAX:
        yield f"shards: must be at most {SHARDS_MAX}"
    for name, words, shape, example in (
        ("accept", fleet.accept, _ACCEPT, "postgres.full_page_writes=off"),
        ("redis_stated", fleet.redis_stated, _STATED, "maxmemory-policy=noeviction"),
    ):
        yield from (f"{name}: {each!r} is not like {example}" for each in words if not shape.fullmatch(each))


def with_password(url: str, password: str) -> str:
    """The URL as an engine's library takes it. The result is a secret."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    netloc = f"{user}:{quote(password, safe='')}@{hosts}" if password else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc))
