"""`stepwrit doctor` on SPIFFE: the socket, who we are there, for how long, and whom we can believe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cryptography import x509

from stepwrit._look import LOOK_S, Look, look_jwt, look_x509
from stepwrit._reach import trouble
from stepwrit._workload_api import X509Update, fetch_jwt_svid, grpc_target
from stepwrit.errors import ConfigurationError, IdentityUnavailable
from stepwrit.jwtsvid import JwtSvidRefused, verify_jwt_svid
from stepwrit.spiffe_bundle import JwtAuthorities
from stepwrit.spiffe_id import SCHEME
from stepwrit.x509svid import SvidRefused, verify_x509_svid
from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.output import when
from stepwrit_broker.config import Config
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.registry.files import load_registry
from stepwrit_broker.spire.needed import from_workload_api
from stepwrit_broker.wiring.documents import document_text
from stepwrit_broker.wiring.identify import others

LONG_S: Final = 86_400.0  # a longer life is a long time for a withdrawn workload to go on
_NAMED: Final = "name the agent's socket_path (agent.conf): spiffe_socket in broker.toml, unix:///…"
_AUDIENCE: Final = "urn:stepwrit:doctor"  # nobody takes such a token


def registry_of(config: Config) -> Registry | None:
    """The registry in the file; None when it does not load, which another check tells."""
    path = config.files.registry
    try:
        return load_registry(document_text("registry", path), name=path.name)[1]
    except (Problem, OSError, UnicodeDecodeError):
        return None


def spiffe_checks(
    config: Config, registry: Registry | None, now: float, *, wait_s: float = LOOK_S
) -> Iterator[Check]:
    """All of it, as far as it can be looked at; now: seconds since the epoch. wait_s: for each answer."""
    socket = _socket(config)
    yield socket
    if not socket.ok:
        return
    try:
        look = look_x509(config.spiffe_socket, config.spiffe_hint or None, timeout=wait_s)
    except IdentityUnavailable as missing:
        yield _nobody(config, missing)
        return
    yield from _identity(config, look)
    yield _life(look.mine, now)
    yield _clock(look.mine, now)
    yield _bundles(config, registry, look.mine, now)
    yield from _jwt(config, registry, look.mine.spiffe_id, now, wait_s)


def _socket(config: Config) -> Check:
    address, name = config.spiffe_socket, "spiffe socket"
    if not address:
        said = "no Workload API is named: spiffe_socket is empty, SPIFFE_ENDPOINT_SOCKET not set"
        return Check(name=name, ok=False, said=said, todo=f"{_NAMED} (sudo drops the environment)")
    try:
        grpc_target(address)
    except ConfigurationError as bad:
        return Check(name=name, ok=False, said=str(bad), todo=_NAMED)
    why = trouble(Path(address.removeprefix("unix:")))
    if why is not None:
        return Check(name=name, ok=False, said=why, todo=f"start the agent, let this user in, or {_NAMED}")
    return Check(name=name, ok=True, said=f"{address} lets uid {os.geteuid()} in")


def _nobody(config: Config, missing: IdentityUnavailable) -> Check:
    todo = (
        f"register {config.broker_id} for this user, below this node's agent or its alias (stepwrit spire "
        "entries); the agent hears of it within its sync interval, 5 s by default"
    )
    return Check(name="spiffe", ok=False, said=str(missing), todo=todo)


def _identity(config: Config, look: Look) -> Iterator[Check]:
    mine, hint = look.mine.spiffe_id, config.spiffe_hint or None
    if mine != config.broker_id:
        todo = f"expected {config.broker_id}: run this as the broker's user, or {{}}"
        todo = todo.format(others(look.offered, config.broker_id, hint))
        yield Check(name="spiffe", ok=False, said=f"here we are {mine}", todo=todo)
        return
    yield Check(name="spiffe", ok=True, said=mine)
    if len(look.offered) > 1 and hint is None:
        said = f"this process is offered {len(look.offered)}: {', '.join(map(str, look.offered))}"
        todo = "one ID for one process: narrow the other entries' selectors, or set spiffe_hint"
        yield Check(name="spiffe ids", ok=None, said=said, todo=todo)


def _life(mine: X509Update, now: float) -> Check:
    leaf = x509.load_der_x509_certificate(mine.chain[0])
    began, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    said, name = f"{_span(ends - now)} left of {_span(ends - began)}", "svid life"
    if ends <= now:
        todo = "the agent did not renew it: read its log; can it reach the server? Or this clock is wrong"
        return Check(name=name, ok=False, said=f"ended {when(ends)}", todo=todo)
    if ends - now < (ends - began) / 4:
        todo = "the agent renews at half of the life: read its log; can it reach the server?"
        return Check(name=name, ok=None, said=said, todo=todo)
    todo = f"a withdrawn workload goes on that long; at most {_span(LONG_S)} is wise (stepwrit spire entries)"
    return Check(name=name, ok=True if ends - began <= LONG_S else None, said=said, todo=todo)


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _clock(mine: X509Update, now: float) -> Check:
    began = x509.load_der_x509_certificate(mine.chain[0]).not_valid_before_utc.timestamp()
    if now < began:
        said = f"this clock is {began - now:.0f} s or more behind the SPIRE server's"
        todo = "set both clocks (chrony, systemd-timesyncd); until then peers refuse each other"
        return Check(name="svid clock", ok=False, said=said, todo=todo)
    return Check(name="svid clock", ok=True, said=f"the SVID holds since {when(began)}")


def _bundles(config: Config, registry: Registry | None, mine: X509Update, now: float) -> Check:
    name, home = "bundles", config.trust_domain
    if not mine.bundles.get(home):
        why = "is empty: it is distrusted" if home in mine.bundles else "is not there"
        return Check(name=name, ok=False, said=f"the bundle of {home} {why}", todo="ask SPIRE's operator")
    try:
        verify_x509_svid(mine.chain[0], mine.chain[1:], mine.bundles, now)
    except SvidRefused as bad:
        said = f"our own SVID does not hold against the bundle of {home}: {bad.reason}"
        return Check(name=name, ok=False, said=said, todo="ask SPIRE's operator; peers will refuse us too")
    both = sorted({each.trust_domain for each in config.federation}.intersection(mine.bundles))
    return (
        _two_sources(both)
        if both
        else _partners(frozenset(from_workload_api(config, registry) if registry else ()), mine.bundles)
    )


def _two_sources(domains: list[str]) -> Check:
    said = f"{', '.join(domains)}: from the Workload API and from [[federation]]; each has one source"
    todo = "take out [[federation]], or -federatesWith of the broker's entry; with both it does not start"
    return Check(name="bundles", ok=False, said=said, todo=todo)


def _partners(trusted: frozenset[str], bundles: Mapping[str, object]) -> Check:
    missing, void = _gaps(trusted, bundles)
    if missing:
        todo = (
            "give the SPIRE server that bundle (spire-server federation create, or bundle set), and the "
            "broker's entry -federatesWith (stepwrit spire entries --have)"
        )
        said = f"registry.yaml trusts {', '.join(missing)}, but no bundle is given to us"
        return Check(name="bundles", ok=False, said=said, todo=todo)
    if void:
        said = f"the bundle of {', '.join(void)} is empty: nobody of there is believed"
        return Check(name="bundles", ok=None, said=said, todo="it was withdrawn: ask its operator")
    return Check(name="bundles", ok=True, said=", ".join(sorted(bundles)))


def _gaps(wanted: frozenset[str], given: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Those that are not there, and those that are empty."""
    return sorted(wanted - given.keys()), sorted(each for each in wanted & given.keys() if not given[each])


def _jwt(config: Config, registry: Registry | None, me: str, now: float, wait_s: float) -> Iterator[Check]:
    callers = [each for each in registry.entries if "jwt" in each.attest] if registry else []
    if not callers:
        return
    if not config.listen.tls:
        said = f"{len(callers)} entries say attest: jwt, but the tls listener is off"
        yield Check(name="jwt", ok=False, said=said, todo='set tls in [listen], or take "jwt" out of attest')
    try:
        given = look_jwt(config.spiffe_socket, timeout=wait_s)
    except IdentityUnavailable as missing:
        yield Check(name="jwt bundles", ok=False, said=str(missing), todo="read the agent's log")
        return
    domains = frozenset(each.id.removeprefix(SCHEME).partition("/")[0] for each in callers)
    domains -= {each.trust_domain for each in config.federation}
    absent, void = _gaps(domains, given)
    if absent or void:
        said = f"no JWT authorities of {', '.join((*absent, *void))}, whose workloads may use JWT-SVIDs"
        yield Check(name="jwt bundles", ok=False, said=said, todo="as for bundles; is that domain's empty?")
        return
    yield Check(name="jwt bundles", ok=True, said=", ".join(sorted(given)))
    yield _jwt_svid(config.spiffe_socket, me, given, now, wait_s)


def _jwt_svid(
    socket: str, me: str, authorities: Mapping[str, JwtAuthorities], now: float, wait_s: float
) -> Check:
    """A warning at most: the broker needs none, but its callers do, from the same server."""
    try:
        token = fetch_jwt_svid(socket, _AUDIENCE, spiffe_id=me, timeout=wait_s)
        svid = verify_jwt_svid(token, audience=_AUDIENCE, authorities=authorities, now=now)
    except (IdentityUnavailable, JwtSvidRefused) as bad:
        todo = "callers with attest: jwt will meet the same; read the agent's log"
        return Check(name="jwt-svid", ok=None, said=str(bad), todo=todo)
    return Check(name="jwt-svid", ok=True, said=f"can be had, and lives {_span(svid.expires_at - now)}")
