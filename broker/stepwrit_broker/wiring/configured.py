"""From `broker.toml` to a running broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import uvloop

from stepwrit_broker.approvals.mail import MailServer
from stepwrit_broker.approvals.webhook import Hook
from stepwrit_broker.attest.federation.partner import Partner
from stepwrit_broker.attest.person import Issuer
from stepwrit_broker.attest.signals import Transmitter
from stepwrit_broker.config import Config, load_config
from stepwrit_broker.config_checks import host_port
from stepwrit_broker.config_federation import NONE, FederationSource
from stepwrit_broker.config_notices import NONE as NO_SECRET
from stepwrit_broker.config_notices import WebhookSource
from stepwrit_broker.config_opa import NONE as NO_FILE
from stepwrit_broker.config_signals import NO_FILE as NO_HEADER
from stepwrit_broker.config_signals import SignalSource
from stepwrit_broker.config_witnesses import NONE as NO_CA
from stepwrit_broker.config_witnesses import WitnessSource
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.workload import DEV_TRUST_DOMAIN, Proxy, SpiffeId
from stepwrit_broker.flows.impact import Activation
from stepwrit_broker.ledger.cosignature import parse_witness_vkey
from stepwrit_broker.ledger.witness.remote import RemoteWitness
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.wiring.fleet_settings import fleet_of
from stepwrit_broker.wiring.settings import Address, BrokerSettings
from stepwrit_broker.wiring.signing_in import provider_of
from stepwrit_broker.wiring.starting import started

_log = structlog.get_logger("stepwrit.broker")


def settings_of(config: Config) -> BrokerSettings:
    """Resolved settings. Raises Malformed for what only shows here."""
    if not config.spiffe_socket:
        raise Malformed(
            "invalid_request",
            "spiffe_socket: no Workload API is named; set it in broker.toml to the agent's socket_path, as "
            "unix:///run/spire/sockets/api.sock (SPIFFE_ENDPOINT_SOCKET is not set either; sudo drops it)",
        )
    if config.trust_domain == DEV_TRUST_DOMAIN:
        raise Malformed(
            "invalid_request", f"trust_domain: {DEV_TRUST_DOMAIN} is for `stepwrit broker --dev` only"
        )
    listen = config.listen
    return BrokerSettings(
        trust_domain=config.trust_domain,
        issuer=config.issuer,
        broker_id=config.broker_id,
        spiffe_socket=config.spiffe_socket,
        spiffe_hint=config.spiffe_hint or None,
        store_path=config.store.path,
        anchor_path=config.store.anchor,
        disk_reserve_bytes=config.store.disk_reserve_bytes,
        ledger_key=config.ledger.key_file,
        ledger_origin=config.ledger.origin,
        checkpoint_every_s=config.ledger.checkpoint_every_s,
        tiles_for=config.ledger.tiles_for,
        witnesses=tuple(witness_of(each) for each in config.witness),
        witness_quorum=config.ledger.witness_quorum,
        witness_alarm_s=config.ledger.witness_alarm_s,
        witness_refuse_after_s=config.ledger.witness_refuse_after_s,
        registry=config.files.registry,
        limits=config.files.limits,
        policy=config.files.policy,
        mtls=_address(listen.mtls),
        mtls_url=listen.mtls_url or _mtls_url(config),
        tls=_address(listen.tls) if listen.tls else None,
        tls_cert=listen.tls_cert,
        tls_key=listen.tls_key,
        ops=_address(listen.ops),
        admin=Path(listen.admin.removeprefix("unix:")),
        admin_uids=frozenset(listen.admin_uids),
        drain_s=listen.drain_s,
        oidc=tuple(
            Issuer(issuer=each.issuer, algorithms=tuple(each.algorithms), jwks_url=each.jwks_url or None)
            for each in config.oidc
        ),
        sign_in=provider_of(config),
        transmitters=tuple(transmitter_of(each, config.issuer) for each in config.signals),
        proxy=proxy_of(config),
        opa=opa_server(config),
        hooks=tuple(hook_of(each) for each in config.webhook),
        mail=mail_server(config),
        rehearsal_opa_url=config.opa.rehearsal_url,
        activation=Activation(
            needs_impact=config.policy.activation_needs == "impact", valid_s=config.policy.impact_valid_s
        ),
        session_s=config.approvals.session_s,
        partners=tuple(partner_of(each) for each in config.federation),
        refused_domains=frozenset({DEV_TRUST_DOMAIN}),
        fleet=fleet_of(config.fleet),
    )


def transmitter_of(source: SignalSource, issuer: str) -> Transmitter:
    """Who may push security events, and for which audience."""
    return Transmitter(
        issuer=source.issuer,
        audience=source.audience or issuer,
        events=frozenset(source.events),
        authorization_file=None if source.authorization_file == NO_HEADER else source.authorization_file,
    )


def proxy_of(config: Config) -> Proxy | None:
    """The proxy whose forwarded certificates count; None where callers connect themselves."""
    source = config.proxy.source
    return None if source == "none" else Proxy(id=SpiffeId(config.proxy.id), source=source)


def opa_server(config: Config) -> OpaServer | None:
    """The OPA of [opa]; None where none is named."""
    opa = config.opa
    if not opa.url:
        return None
    return OpaServer(
        url=opa.url,
        ca_file=None if opa.ca_file == NO_FILE else opa.ca_file,
        token_file=None if opa.token_file == NO_FILE else opa.token_file,
        timeout_s=opa.timeout_ms / 1000,
        failures=opa.breaker_failures,
        open_s=opa.breaker_open_s,
    )


def mail_server(config: Config) -> MailServer | None:
    """The server of [mail]; None where none is named."""
    mail = config.mail
    if not mail.host:
        return None
    return MailServer(
        host=mail.host,
        port=mail.port,
        sender=mail.sender,
        security=mail.security,
        user=mail.user,
        password_file=None if mail.password_file == NO_SECRET else mail.password_file,
        ca_file=None if mail.ca_file == NO_SECRET else mail.ca_file,
        every_s=mail.every_s,
    )


def hook_of(source: WebhookSource) -> Hook:
    """A [[webhook]] of a checked configuration."""
    return Hook(
        name=source.name,
        url=source.url,
        secret_file=source.secret_file,
        events=frozenset(source.events),
        initiators=source.initiators,
        ca_file=None if source.ca_file == NO_SECRET else source.ca_file,
    )


def witness_of(source: WitnessSource) -> RemoteWitness:
    """A [[witness]] of a checked configuration. Raises NoteRefused for what is no witness's key."""
    return RemoteWitness(
        url=source.url,
        verifier=parse_witness_vkey(source.vkey),
        ca_file=None if source.ca_file == NO_CA else source.ca_file,
    )


def partner_of(source: FederationSource) -> Partner:
    """A [[federation]] of a checked configuration."""
    return Partner(
        trust_domain=source.trust_domain,
        url=source.url,
        profile=source.profile,
        endpoint_id=source.endpoint_spiffe_id or None,
        bootstrap=None if source.bootstrap == NONE else source.bootstrap,
        ca_file=None if source.ca_file == NONE else source.ca_file,
        max_age_s=source.max_age_s,
    )


def _address(text: str) -> Address:
    host, port = host_port(text)
    return Address(host=host, port=port)


def _mtls_url(config: Config) -> str | None:
    """The issuer's host with the mtls listener's port; None (what was bound) when the port is chosen at
    start.
    """
    host, port = urlsplit(config.issuer).hostname, host_port(config.listen.mtls)[1]
    return None if port == 0 else f"https://{f'[{host}]' if host and ':' in host else host}:{port}"


def log_to_stderr(config: Config) -> None:
    """Structured lines on stderr: JSON, or text for people."""
    level = logging.getLevelNamesMapping()[config.log.level.upper()]
    shown = (
        structlog.processors.JSONRenderer()
        if config.log.format == "json"
        else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


async def serve(settings: BrokerSettings) -> None:
    """Serve until SIGINT or SIGTERM; then drain. A second one ends the drain."""
    stop, hurry, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, told)
    async with started(settings, stop) as broker:
        if broker is None:
            return
        _log.info("serving", mtls=broker.mtls_url, ops=broker.ops.url, admin=str(settings.admin))
        await stop.wait()
        _log.info("stopping", drain_s=settings.drain_s)
        await broker.drain(settings.drain_s, hurry)


def run(path: Path) -> None:
    """`stepwrit broker --config FILE`. Raises Malformed, Unavailable, IdentityUnavailable, ListenerError."""
    config = load_config(path)
    log_to_stderr(config)
    uvloop.run(serve(settings_of(config)))
