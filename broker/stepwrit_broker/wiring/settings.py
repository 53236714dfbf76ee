"""What a broker is built from, whichever way it was configured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stepwrit_broker.approvals.mail import MailServer
from stepwrit_broker.approvals.oidc import Provider
from stepwrit_broker.approvals.webhook import Hook
from stepwrit_broker.attest.federation.partner import Partner
from stepwrit_broker.attest.person import Issuer
from stepwrit_broker.attest.signals import Transmitter
from stepwrit_broker.core.workload import Proxy
from stepwrit_broker.flows.impact import Activation
from stepwrit_broker.ledger.witness.remote import RemoteWitness
from stepwrit_broker.policy.opa_http import OpaServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a TCP listener binds."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """Where a fleet's engines are. redis, postgres: with their passwords. me: this broker's name among the
    others. accept: weaknesses that are lived with. redis_stated: what a managed Redis is set to.
    """

    redis: str = field(repr=False)
    postgres: str = field(repr=False)
    me: str
    name: str = "stepwrit"
    shards: int = 16
    accept: tuple[str, ...] = ()
    redis_stated: tuple[str, ...] = ()
    redis_ca_file: Path | None = None
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    redis_sentinel_user: str | None = None
    redis_sentinel_password: str | None = field(default=None, repr=False)
    redis_timeout_s: float = 2.0
    postgres_connections: int = 8
    postgres_statement_s: float = 10.0
    postgres_commit: Literal["on", "remote_apply"] = "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Resolved settings; units in names. Built from `broker.toml`, or by the development broker.

    mtls_url: the URL under which workloads reach the mtls listener; None takes what was bound.
    tls: None serves no listener without client certificates. proxy: whose forwarded certificates count on the
    mtls listener. refused_domains: trust domains that are never believed, whatever the Workload API says.
    hooks, mail: who is told of approvals. opa: who evaluates policies in Rego. rehearsal_opa_url: another one
    for policies that are not in force. activation: what it takes to put a policy in force. spiffe_hint: which
    of the broker's SVIDs; None takes the first. session_s: how long a person who signed in sees the pages.
    sign_in: where they may sign in besides. transmitters: who tells of ended sessions.
    tiles_for: who reads checkpoint and hash tiles. drain_s: how long it serves, unready, once told to stop.
    fleet: its engines, for one of several brokers; then `store_path` only names this broker's own folder.
    witnesses: who cosigns the log; quorum 0: more than half of them.
    """

    trust_domain: str
    issuer: str
    broker_id: str
    spiffe_socket: str
    store_path: Path
    anchor_path: Path
    ledger_key: Path
    ledger_origin: str
    registry: Path | None
    limits: Path | None
    policy: Path | None
    mtls: Address
    ops: Address
    admin: Path
    tls: Address | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    mtls_url: str | None = None
    admin_uids: frozenset[int] = field(default_factory=frozenset)
    oidc: tuple[Issuer, ...] = ()
    sign_in: Provider | None = None
    transmitters: tuple[Transmitter, ...] = ()
    partners: tuple[Partner, ...] = ()
    spiffe_hint: str | None = None
    proxy: Proxy | None = None
    opa: OpaServer | None = None
    hooks: tuple[Hook, ...] = ()
    mail: MailServer | None = None
    rehearsal_opa_url: str = ""
    activation: Activation = field(default_factory=Activation)
    refused_domains: frozenset[str] = field(default_factory=frozenset)
    bundle_max_age_s: float = 600.0
    checkpoint_every_s: float = 1.0
    tiles_for: Literal["auditors", "everyone"] = "auditors"
    witnesses: tuple[RemoteWitness, ...] = ()
    witness_quorum: int = 0
    witness_alarm_s: float = 120.0
    witness_refuse_after_s: float = 3600.0
    reap_every_s: float = 1.0
    watch_every_s: float = 2.0
    ready_timeout_s: float = 30.0
    session_s: float = 900.0
    drain_s: float = 0.0
    disk_reserve_bytes: int = 64 * 1024 * 1024
    fleet: FleetSettings | None = None
