"""What broker.toml must mean beyond its shape: each problem is one line that names its setting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from stepwrit.digest import DigestError, normalise_url
from stepwrit_broker.config_approvals import approvals_problems
from stepwrit_broker.config_federation import federation_problems
from stepwrit_broker.config_fleet import fleet_problems
from stepwrit_broker.config_notices import notice_problems
from stepwrit_broker.config_opa import opa_problems
from stepwrit_broker.config_sign_in import sign_in_problems
from stepwrit_broker.config_signals import signal_problems
from stepwrit_broker.config_witnesses import witness_problems
from stepwrit_broker.core.workload import parse_spiffe_id, parse_trust_domain, trust_domain_of

if TYPE_CHECKING:
    from stepwrit_broker.config import Config, Listen

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
PORT_MAX: Final = 65_535


def host_port(address: str) -> tuple[str, int]:
    """`host:port`, or `[v6]:port`, apart. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not (port.isascii() and port.isdigit()) or int(port) > PORT_MAX:
        raise ValueError("must be HOST:PORT")
    if ":" in bare and host == bare:
        raise ValueError("an IPv6 address needs brackets, as in [::1]:8443")
    return bare, int(port)


def meaning(config: Config) -> Iterator[str]:
    """Every problem of settings that are well-formed."""
    yield from _identity(config)
    yield from _proxy(config)
    yield from federation_problems(config.trust_domain, config.federation)
    yield from _addresses(config.listen)
    yield from fleet_problems(config.fleet)
    yield from opa_problems(config.opa)
    yield from approvals_problems(config.approvals)
    yield from notice_problems(config.mail, config.webhook)
    yield from sign_in_problems(config)
    yield from signal_problems(config.signals, [each.issuer for each in config.oidc])
    ledger = config.ledger
    yield from witness_problems(config.witness, ledger.witness_quorum, ledger.witness_refuse_after_s)
    if not math.isfinite(config.ledger.checkpoint_every_s):
        yield "ledger.checkpoint_every_s: must be finite"
    if not _is_https(config.issuer) or urlsplit(config.issuer).path or "?" in config.issuer:
        yield "issuer: must be an https URL (http only for loopback) of host and port alone, without a slash"
    for at, each in enumerate(config.oidc):
        if not _is_https(each.issuer) or not _is_https(each.jwks_url or each.issuer):
            yield f"oidc[{at}]: issuer and jwks_url must be https URLs (http only for loopback)"
        if not each.algorithms:
            yield f"oidc[{at}].algorithms: needs at least one"
    if len({each.issuer for each in config.oidc}) != len(config.oidc):
        yield "oidc: names an issuer twice"


def _identity(config: Config) -> Iterator[str]:
    try:
        parse_trust_domain(config.trust_domain)
    except ValueError as bad:
        yield f"trust_domain: {bad}"
        return
    yield from _own_id(config, "broker_id", config.broker_id)


def _own_id(config: Config, setting: str, spiffe_id: str) -> Iterator[str]:
    try:
        if trust_domain_of(parse_spiffe_id(spiffe_id)) != config.trust_domain:
            yield f"{setting}: must be in the broker's own trust domain"
    except ValueError as bad:
        yield f"{setting}: {bad}"


def _proxy(config: Config) -> Iterator[str]:
    proxy = config.proxy
    if bool(proxy.id) != (proxy.source != "none"):
        yield "proxy: needs id and source, or neither"
    if not proxy.id:
        return
    yield from _own_id(config, "proxy.id", proxy.id)
    if proxy.id == config.broker_id:
        yield "proxy.id: is the broker's own; the proxy needs a registration entry of its own"
    if not config.listen.mtls_url:
        yield "listen.mtls_url: is needed with [proxy]: the URL at which workloads reach the proxy"


def _is_https(url: str) -> bool:
    try:
        normalise_url(url)
    except DigestError:
        return False
    parts = urlsplit(url)
    return not parts.query and (parts.scheme == "https" or parts.hostname in LOOPBACK)


def _addresses(listen: Listen) -> Iterator[str]:
    for name, address in (("mtls", listen.mtls), ("tls", listen.tls), ("ops", listen.ops)):
        try:
            if address or name != "tls":
                host_port(address)
        except ValueError as bad:
            yield f"listen.{name}: {bad}"
    if listen.mtls_url and (not listen.mtls_url.startswith("https://") or listen.mtls_url.endswith("/")):
        yield "listen.mtls_url: must be an https URL without a trailing slash"
    if not listen.admin.startswith("unix:/"):
        yield "listen.admin: must be unix:/PATH"
