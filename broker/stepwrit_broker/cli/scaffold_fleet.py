"""broker.toml of a fleet: a new one, or an existing one with the settings of `[fleet]` put in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from stepwrit_broker.config import Config, load_config, parse_config
from stepwrit_broker.config_checks import host_port
from stepwrit_broker.config_docs import toml_value
from stepwrit_broker.core.errors import Conflict, Malformed

Wanted = Mapping[tuple[str, str], object]
"""Values by section and key."""
REDIS: Final = "redis://stepwrit@127.0.0.1:6379"
POSTGRES: Final = "postgresql://stepwrit_broker@127.0.0.1:5432/stepwrit"
MTLS: Final = "0.0.0.0:8443"
DRAIN_S: Final = 10.0  # a balancer that asks every second has noticed by then
_SECTION: Final = re.compile(r"\[+\s*([a-z_]+)\s*\]+")
_HEAD: Final = re.compile(r"\s*(#\s*)?\[")
_LOCAL: Final = ("localhost", "[::1]", "::1")
_VERIFIED: Final = frozenset({"verify-full", "verify-ca"})


def fleet_settings(issuer: str, mtls: str, redis: str, postgres: str) -> dict[tuple[str, str], object]:
    """What a broker of a fleet needs beyond the defaults.

    mtls: what workloads reach, whichever port a broker of the fleet has. Raises Malformed for an engine
    across a network that nobody verifies.
    """
    problems = list(_unsafe(redis, postgres))
    if problems:
        raise Malformed("invalid_request", "\n".join(problems))
    return {
        ("listen", "mtls_url"): f"https://{_bare(_netloc(issuer))}:{host_port(mtls)[1]}",
        ("listen", "drain_s"): DRAIN_S,
        ("fleet", "redis"): redis,
        ("fleet", "redis_password_file"): "redis.password",
        ("fleet", "postgres"): postgres,
        ("fleet", "postgres_password_file"): "postgres.password",
    }


def write_fleet(source: Path, into: Path, redis: str, postgres: str, *, force: bool = False) -> Config:
    """Another settings file beside an embedded broker's: the same, and one of a fleet. The new settings.

    The log of a fleet is another log: it gets its own name, key and anchor. Raises Malformed, and
    Conflict(`wrong_state`) for a file that is there, a fleet's already, or in another folder (its relative
    paths would mean others).
    """
    old = load_config(source, env={})
    if old.fleet.is_on:
        raise Conflict("wrong_state", f"{source} is of a fleet already")
    if into.absolute().parent != source.absolute().parent:
        raise Conflict(
            "wrong_state", f"{into}: write it beside {source}; its relative paths stay right there"
        )
    if into.exists() and not force:
        raise Conflict("wrong_state", f"{into}: already there; nothing was written")
    state = old.store.path.parent / "fleet"
    wanted = {
        **fleet_settings(old.issuer, old.listen.mtls, redis, postgres),
        ("ledger", "origin"): f"{old.ledger.origin}/fleet",
        ("ledger", "key_file"): str(state / "ledger.key"),
        ("store", "anchor"): str(state / "stepwrit.anchor"),
    }
    if old.listen.mtls_url:
        del wanted["listen", "mtls_url"]
    text = with_settings(source.read_text(encoding="utf-8"), wanted)
    made = parse_config(text, name=into.name, folder=into.absolute().parent, env={})
    into.write_text(text, encoding="utf-8")
    return made


def with_settings(text: str, wanted: Wanted) -> str:
    """The file with these values: where the key stands, also as a comment, else at its section's head.

    All other lines stay as they are. A value of several lines is not replaced: what comes out does not load.
    """
    left, section, lines = dict(wanted), "", list[str]()
    for line in text.splitlines():
        if _HEAD.match(line) and (found := _SECTION.search(line)):
            section = found[1] if not line.lstrip().startswith("#") else ""
        lines.append(_put(line, section, left))
    for (name, key), value in reversed(left.items()):
        _insert(lines, name, f"{key} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def _put(line: str, section: str, left: dict[tuple[str, str], object]) -> str:
    key = line.removeprefix("# ").partition("=")[0].strip()
    if "=" not in line or (section, key) not in left:
        return line
    return f"{key} = {toml_value(left.pop((section, key)))}"


def _insert(lines: list[str], section: str, line: str) -> None:
    head = f"[{section}]"
    at = next((n for n, each in enumerate(lines) if each.partition("#")[0].strip() == head), None)
    if at is None:
        lines += ["", head, line]
    else:
        lines.insert(at + 1, line)


def _unsafe(redis: str, postgres: str) -> Iterator[str]:
    if not urlsplit(redis).scheme.startswith("rediss") and not _is_local(redis):
        yield "redis: is across a network without TLS; begin it with rediss, and set redis_ca_file"
    verified = _VERIFIED & set(parse_qs(urlsplit(postgres).query).get("sslmode", ()))
    if not verified and not _is_local(postgres):
        way = "end it with ?sslmode=verify-full&sslrootcert=/PATH"
        yield f"postgres: is across a network without verified TLS; {way}"


def _is_local(url: str) -> bool:
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    return all(_bare(each) in _LOCAL or _bare(each).startswith("127.") for each in hosts)


def _netloc(url: str) -> str:
    """Empty for what is no URL: the checker of settings says so."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _bare(host: str) -> str:
    return re.sub(r":\d+$", "", host)
