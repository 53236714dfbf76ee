"""broker.toml: every setting of a broker, with its unit in its name, a safe default and its meaning.

    config = load_config(Path("/etc/stepwrit/broker.toml"))

Strict: an unknown key is refused with the nearest one that exists. `STEPWRIT_<SECTION>_<KEY>` (or
`STEPWRIT_<KEY>` for a key outside any section) in the environment wins over the file. Relative paths are
relative to the file's folder. No setting holds a secret; what is secret is a path to a file.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from stepwrit_broker.config_approvals import ApprovalsTable
from stepwrit_broker.config_checks import meaning
from stepwrit_broker.config_docs import reference, schema
from stepwrit_broker.config_federation import FederationSource
from stepwrit_broker.config_fleet import FleetTable
from stepwrit_broker.config_notices import MailTable, WebhookSource
from stepwrit_broker.config_opa import OpaTable
from stepwrit_broker.config_reader import Means, Reader, overlay
from stepwrit_broker.config_sign_in import SignInTable
from stepwrit_broker.config_signals import SignalSource
from stepwrit_broker.config_witnesses import WitnessSource
from stepwrit_broker.core.errors import Malformed

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "text"]
Algorithm = Literal["ES256", "ES384", "EdDSA", "RS256", "PS256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where the broker listens, as HOST:PORT. Port 0 takes a free one."""

    mtls: Annotated[str, Means(text="Workloads and SPIFFE operators; a client certificate is demanded.")] = (
        "0.0.0.0:8443"
    )
    mtls_url: Annotated[
        str,
        Means(
            text="The URL under which workloads reach `mtls`; their key proofs name it. "
            "Empty: https, the host of `issuer` and the port of `mtls`."
        ),
    ] = ""
    tls: Annotated[
        str,
        Means(
            text="Callers with a JWT-SVID, keys, metadata and pages; no client certificate. "
            "Its URL is `issuer`. Empty: this listener is off."
        ),
    ] = "0.0.0.0:8444"
    tls_cert: Annotated[Path, Means(text="Certificate chain of `tls`, PEM; read again on change.")] = Path(
        "tls/cert.pem"
    )
    tls_key: Annotated[Path, Means(text="Private key of `tls_cert`, PEM.")] = Path("tls/key.pem")
    ops: Annotated[
        str, Means(text="/metrics, /healthz and /readyz, without TLS: keep it off public networks.")
    ] = "127.0.0.1:9464"
    admin: Annotated[
        str,
        Means(
            text="The operator's Unix socket; the peer's uid is checked and recorded. "
            "Mode 0600, or 0666 where `admin_uids` names others."
        ),
    ] = "unix:/run/stepwrit/admin.sock"
    admin_uids: Annotated[
        tuple[int, ...], Means(text="Who may use `admin` beside root and the broker's own uid.", least=0)
    ] = ()
    drain_s: Annotated[
        float,
        Means(
            text="How long it still serves, unready, once it is told to stop: what stands before several "
            "brokers notices by `/readyz`. A second signal ends it.",
            unit="seconds",
            least=0.0,
        ),
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTable:
    """A proxy that ends TLS in front of `mtls`, if there is one. Both settings, or neither."""

    id: Annotated[
        str,
        Means(
            text="The proxy's own SPIFFE ID, in the broker's trust domain and in no registry entry. Only on "
            "its connections does a forwarded certificate count."
        ),
    ] = ""
    source: Annotated[
        Literal["none", "client-cert", "xfcc"],
        Means(
            text="The one header that holds the client's certificate: `client-cert` (RFC 9440), `xfcc` "
            "(Envoy's `X-Forwarded-Client-Cert`), `none` without a proxy."
        ),
    ] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where everything durable lives."""

    path: Annotated[Path, Means(text="The SQLite database; one broker at a time.")] = Path(
        "/var/lib/stepwrit/stepwrit.db"
    )
    anchor: Annotated[
        Path,
        Means(
            text="The anchor against a rolled-back database. Best on another disk, never in the same backup."
        ),
    ] = Path("/var/lib/stepwrit/anchor/stepwrit.anchor")
    disk_reserve_bytes: Annotated[
        int,
        Means(
            text="Below this much free space nothing is issued; revoke and freeze still work.",
            unit="bytes",
            least=1_048_576,
        ),
    ] = 67_108_864


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The append-only log."""

    key_file: Annotated[
        Path, Means(text="The log's long-lived checkpoint key, mode 0600; made at first start.")
    ] = Path("/var/lib/stepwrit/ledger.key")
    origin: Annotated[
        str,
        Means(text="The log's name in checkpoints (C2SP tlog-checkpoint). Empty: `issuer` without scheme."),
    ] = ""
    checkpoint_every_s: Annotated[
        float, Means(text="How often a checkpoint is signed.", unit="seconds", least=0.1)
    ] = 1.0
    tiles_for: Annotated[
        Literal["auditors", "everyone"],
        Means(
            text="Who reads checkpoint and hash tiles (`/tlog`): operators and auditors on `mtls` and "
            "`admin`, or also `everyone` on `tls`. Entries are never served on `tls`."
        ),
    ] = "auditors"
    witness_quorum: Annotated[
        int,
        Means(text="How many [[witness]] must cosign a checkpoint. 0: more than half of them.", least=0),
    ] = 0
    witness_alarm_s: Annotated[
        float,
        Means(
            text="Without a quorum of cosignatures for so long, readiness and `doctor` say so.",
            unit="seconds",
            least=1,
        ),
    ] = 120.0
    witness_refuse_after_s: Annotated[
        float,
        Means(
            text="Without one for so long, nothing is opened or issued any more; what is out is still "
            "redeemed. At most a week.",
            unit="seconds",
            least=1,
        ),
    ] = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What operators write. A changed file is applied as a new version."""

    registry: Annotated[Path, Means(text="Who is what, who may start what, who redeems.")] = Path(
        "registry.yaml"
    )
    limits: Annotated[Path, Means(text="Bounds on issuance.")] = Path("limits.yaml")
    policy: Annotated[Path, Means(text="The folder of policies: Cedar, or Rego for `[opa]`.")] = Path(
        "policy"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTable:
    """What it takes to put a policy in force."""

    activation_needs: Annotated[
        Literal["nothing", "impact"],
        Means(
            text="`impact`: a policy is put in force only with a recent impact report of exactly it "
            "(`stepwrit policy impact`), or with --accept-impact; else a changed file is refused too. Undo "
            "needs none."
        ),
    ] = "nothing"
    impact_valid_s: Annotated[
        float, Means(text="How long an impact report is recent.", unit="seconds", least=1)
    ] = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Oidc:
    """An OpenID provider whose ID tokens prove a person. Its clients are named in the registry."""

    issuer: Annotated[str, Means(text="The provider's `iss`, compared exactly.")]
    jwks_url: Annotated[str, Means(text="Where its keys are. Empty: found by OpenID Connect Discovery.")] = ""
    algorithms: Annotated[tuple[Algorithm, ...], Means(text="The signature algorithms that are taken.")] = (
        "ES256",
        "RS256",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Diagnostic output; never a secret, never the ledger."""

    level: Annotated[Level, Means(text="The least severe line that is written.")] = "info"
    format: Annotated[Format, Means(text="One JSON object a line, or text for people.")] = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings. Only the trust domain and the issuer have no default."""

    trust_domain: Annotated[str, Means(text="This broker's SPIFFE trust domain, such as `prod.example`.")]
    issuer: Annotated[
        str,
        Means(text="The broker's own name in tokens: the URL of the `tls` listener: host and port, no path."),
    ]
    broker_id: Annotated[
        str, Means(text="The broker's own SPIFFE ID. Empty: `spiffe://TRUST_DOMAIN/stepwrit/broker`.")
    ] = ""
    spiffe_socket: Annotated[
        str, Means(text="The Workload API's address. Empty: `SPIFFE_ENDPOINT_SOCKET` of the environment.")
    ] = ""
    spiffe_hint: Annotated[
        str,
        Means(
            text="Which SVID, where the Workload API gives this process several: the one with this hint. "
            "Empty: the first."
        ),
    ] = ""
    listen: Listen = field(default_factory=Listen)
    proxy: ProxyTable = field(default_factory=ProxyTable)
    store: Store = field(default_factory=Store)
    fleet: FleetTable = field(default_factory=FleetTable)
    ledger: Ledger = field(default_factory=Ledger)
    files: Files = field(default_factory=Files)
    policy: PolicyTable = field(default_factory=PolicyTable)
    opa: OpaTable = field(default_factory=OpaTable)
    approvals: ApprovalsTable = field(default_factory=ApprovalsTable)
    mail: MailTable = field(default_factory=MailTable)
    sign_in: SignInTable = field(default_factory=SignInTable)
    log: Log = field(default_factory=Log)
    oidc: tuple[Oidc, ...] = ()
    federation: tuple[FederationSource, ...] = ()
    webhook: tuple[WebhookSource, ...] = ()
    signals: tuple[SignalSource, ...] = ()
    witness: tuple[WitnessSource, ...] = ()


def load_config(path: Path, env: Mapping[str, str] | None = None) -> Config:
    """The settings of a file. `env`: the process's environment when None.

    Raises Malformed(`invalid_request`) that names every problem, one a line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise Malformed("invalid_request", f"{path}: cannot be read ({type(bad).__name__})") from bad
    return parse_config(text, name=path.name, folder=path.parent, env=os.environ if env is None else env)


def parse_config(text: str, *, name: str, folder: Path, env: Mapping[str, str]) -> Config:
    """The settings of a text; relative paths start in `folder`. Raises Malformed as `load_config` does."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise Malformed("invalid_request", f"{name}: {bad}") from bad
    problems: list[str] = []
    overlay(Config, table, env, problems)
    made = Reader(folder, problems).table(Config, table)
    if not problems:
        made = _completed(made, env)
        problems += meaning(Config(**made))
    if problems:
        raise Malformed("invalid_request", "\n".join(f"{name}: {each}" for each in problems))
    return Config(**made)


def _completed(made: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """What is empty and follows from something else."""
    ledger: Ledger = made["ledger"]
    origin = ledger.origin or str(made["issuer"]).partition("://")[2]
    return {
        **made,
        "broker_id": made.get("broker_id") or f"spiffe://{made['trust_domain']}/stepwrit/broker",
        "spiffe_socket": made.get("spiffe_socket") or env.get("SPIFFE_ENDPOINT_SOCKET", ""),
        "ledger": dataclasses.replace(ledger, origin=origin),
    }


def config_reference() -> str:
    """docs/reference/configuration.md."""
    return reference(Config)


def config_schema() -> str:
    """docs/reference/schemas/broker.schema.json."""
    return schema(Config)


if __name__ == "__main__":  # `python -m stepwrit_broker.config [schema]`
    sys.stdout.write(config_schema() if sys.argv[1:] == ["schema"] else config_reference())
