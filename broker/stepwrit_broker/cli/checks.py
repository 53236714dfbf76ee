"""What `stepwrit doctor` looks at. Each check tells what it saw, and what to do when that is not good."""

from __future__ import annotations

import os
import ssl
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from stepwrit.errors import StepwritError
from stepwrit_broker.cli.check import Check
from stepwrit_broker.cli.checks_federation import federation_checks
from stepwrit_broker.cli.checks_opa import opa_check
from stepwrit_broker.cli.checks_sign_in import sign_in_check
from stepwrit_broker.cli.checks_spiffe import registry_of, spiffe_checks
from stepwrit_broker.cli.checks_workflows import workflow_check
from stepwrit_broker.cli.client import AdminClient, asking
from stepwrit_broker.cli.output import when
from stepwrit_broker.config import Config, load_config
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.core.versions import VersionKind
from stepwrit_broker.ledger.anchor import AnchorFile
from stepwrit_broker.wiring.configured import proxy_of
from stepwrit_broker.wiring.documents import OperatorDocuments, document_text

PYTHON: Final = (3, 11)
OPENSSL: Final = (3, 0)
BORN: Final = 1_760_000_000.0  # no clock that is right shows less: this code is younger
KINDS: Final[tuple[VersionKind, ...]] = ("registry", "limits", "policy")


def all_checks(path: Path | None, at: str | None) -> list[Check]:
    """Everything that can be looked at with what is known: with a broker.toml all of it."""
    found = [*runtime(), clock(time.time(), None)]
    if path is None:
        todo = "stepwrit init DIR --trust-domain … --issuer …, then --config DIR/broker.toml"
        return [
            *found,
            Check(name="broker.toml", ok=None, said="none named, none in /etc/stepwrit", todo=todo),
            *broker(at, {}),
        ]
    try:
        config = load_config(path)
    except Problem as bad:
        return [*found, Check(name="broker.toml", ok=False, said=bad.reason, todo=f"correct {path}")]
    found = [*found, Check(name="broker.toml", ok=True, said=f"{path} loads")]
    digests: dict[VersionKind, str] = {}
    from stepwrit_broker.cli.checks_fleet import fleet_check  # noqa: PLC0415  drivers, slow to import

    found += files(config, digests)
    registry = registry_of(config)
    found += [
        *spiffe_checks(config, registry, time.time()),
        *federation_checks(config, registry),
        *people(config, registry),
        *fleet_check(config),
        *opa_check(config),
        *workflow_check(config, registry),
        *sign_in_check(config),
        tls(config),
        proxy(config),
        disk(config),
        anchor(config),
        key(config),
    ]
    return [*found, *broker(at or config.listen.admin, digests)]


def runtime() -> Iterator[Check]:
    """Python and OpenSSL."""
    python = sys.version_info[:3]
    yield Check(
        name="python",
        ok=python >= PYTHON,
        said=".".join(map(str, python)),
        todo=f"use Python {'.'.join(map(str, PYTHON))} or newer",
    )
    yield Check(
        name="openssl",
        ok=ssl.OPENSSL_VERSION_INFO[:2] >= OPENSSL and ssl.HAS_TLSv1_3,
        said=ssl.OPENSSL_VERSION,
        todo="use a Python that is linked with OpenSSL 3 and knows TLS 1.3",
    )


def clock(now: float, high_water: float | None) -> Check:
    """Whether the clock can be right. high_water: the latest time that the store has seen, if known."""
    todo = "set the clock (chrony, systemd-timesyncd); nothing is granted on a clock that is in doubt"
    if now < BORN:
        return Check(name="clock", ok=False, said=f"{when(now)} is long past", todo=todo)
    if high_water is not None and now < high_water - 1:
        said = f"{when(now)}, but the store has seen {when(high_water)}"
        return Check(name="clock", ok=False, said=said, todo=todo)
    return Check(name="clock", ok=True, said=when(now))


def files(config: Config, digests: dict[VersionKind, str]) -> Iterator[Check]:
    """Whether the operator's files load; their digests go into `digests`."""
    paths: dict[VersionKind, Path] = {
        "registry": config.files.registry,
        "limits": config.files.limits,
        "policy": config.files.policy,
    }
    for kind, path in paths.items():
        try:
            text = document_text(kind, path)
            _, digests[kind] = OperatorDocuments(proxy=proxy_of(config)).read(kind, text, path.name)
        except (Problem, OSError, UnicodeDecodeError) as bad:
            said = bad.reason if isinstance(bad, Problem) else f"{path}: {bad}"
            yield Check(name=kind, ok=False, said=said, todo=f"correct {path}; what was in force stays")
        else:
            yield Check(name=kind, ok=True, said=f"{path} loads")


def tls(config: Config) -> Check:
    """Whether the `tls` listener has a certificate and its key; without them the broker does not start."""
    listen = config.listen
    if not listen.tls:
        return Check(name="tls", ok=True, said="the tls listener is off")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listen.tls_cert, listen.tls_key)
    except PermissionError as bad:
        said = f"{listen.tls_cert}, {listen.tls_key}: {bad.strerror}"
        todo = "let the broker's user read both, and nobody else the key: chgrp, chmod 640"
        return Check(name="tls", ok=False, said=said, todo=todo)
    except (OSError, ssl.SSLError) as bad:
        todo = f'put a certificate for {config.issuer} and its key there, or set tls = "" in [listen]'
        return Check(name="tls", ok=False, said=f"{listen.tls_cert}, {listen.tls_key}: {bad}", todo=todo)
    return Check(name="tls", ok=True, said=f"{listen.tls_cert} and its key load")


def proxy(config: Config) -> Check:
    """Whether a proxy ends TLS before us, and how it says who its client is. A wrong one does not load."""
    mine = config.proxy
    if mine.source == "none":
        return Check(name="proxy", ok=True, said="none: workloads connect to the broker themselves")
    said = f"{mine.id} by {mine.source}; workloads reach it at {config.listen.mtls_url}"
    return Check(name="proxy", ok=True, said=said)


def people(config: Config, registry: Registry | None) -> Iterator[Check]:
    """Whether the identity providers whose ID tokens the registry's agents bring are the broker's too."""
    named = {client.issuer for each in registry.entries for client in each.clients} if registry else set()
    missing = sorted(named - {each.issuer for each in config.oidc})
    if missing:
        said = f"registry.yaml has clients of {', '.join(missing)}, which no [[oidc]] in broker.toml names"
        todo = "add [[oidc]] with that issuer, and start the broker again; until then no person gets in by it"
        yield Check(name="oidc", ok=None, said=said, todo=todo)
    elif named:
        yield Check(name="oidc", ok=True, said=", ".join(sorted(named)))


def disk(config: Config) -> Check:
    """Whether there is room beyond the reserve."""
    folder = _existing(config.store.path.parent)
    room = os.statvfs(folder)
    free, reserve = room.f_bavail * room.f_frsize, config.store.disk_reserve_bytes
    said = f"{free / 2**20:,.0f} MiB free under {folder}, {reserve / 2**20:,.0f} MiB kept back"
    if free < reserve:
        todo = "make room: nothing is issued now; `stepwrit ledger seal FILE` moves old bodies elsewhere"
        return Check(name="disk", ok=False, said=said, todo=todo)
    todo = "make room soon, or seal: `stepwrit ledger seal FILE`"
    return Check(name="disk", ok=True if free > 4 * reserve else None, said=said, todo=todo)


def anchor(config: Config) -> Check:
    """Whether the anchor is readable, and on another disk than what it watches."""
    path, db = config.store.anchor, config.store.path
    try:
        held = AnchorFile(path).read()
    except Problem as bad:
        return Check(
            name="anchor", ok=False, said=bad.reason, todo="stepwrit store check, then stepwrit store adopt"
        )
    if held is not None and not clock(time.time(), held.high_water).ok:
        return clock(time.time(), held.high_water)
    said = "made at first start" if held is None else f"{held.size} entries, {when(held.high_water)}"
    if config.fleet.is_on:  # what lies at [store] path is the archive of a broker that stood alone
        return Check(name="anchor", ok=True, said=f"{said}; the database is PostgreSQL's")
    if held is None and db.exists():
        return Check(
            name="anchor",
            ok=False,
            said=f"none at {path}, but there is a database",
            todo="stepwrit store adopt",
        )
    if _existing(path.parent).stat().st_dev == _existing(db.parent).stat().st_dev:
        todo = f"best on another disk than {db}, and never in the same backup ([store] anchor)"
        return Check(name="anchor", ok=None, said=f"{said}; on the database's own disk", todo=todo)
    return Check(name="anchor", ok=True, said=f"{said}; on a disk of its own")


def key(config: Config) -> Check:
    """Whether only the broker's user can read the log's key."""
    path = config.ledger.key_file
    try:
        status = path.stat()
    except FileNotFoundError:
        return Check(name="ledger key", ok=True, said=f"made at first start in {path}")
    except OSError as bad:
        return Check(
            name="ledger key", ok=None, said=f"{path}: {bad.strerror}", todo="run this as the broker's user"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        said = f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o})"
        return Check(
            name="ledger key",
            ok=False,
            said=said,
            todo=f"chmod 600 {path}; if others may have read it, rotate it",
        )
    return Check(name="ledger key", ok=True, said=f"{path}, mode {stat.S_IMODE(status.st_mode):04o}")


def broker(at: str | None, digests: dict[VersionKind, str]) -> Iterator[Check]:
    """Whether a broker answers, and whether what is in force is what the files say."""
    try:
        with asking(at) as admin:
            said = admin.get("/status")
            where = f"{admin.place.where}: {said.get('broker_id')}, {said['ledger']['size']} ledger entries"
            yield Check(name="broker", ok=True, said=where)
            yield from witnesses(said.get("witnesses", {}))
            yield from _drift(admin, digests)
    except (StepwritError, Problem) as missing:
        reason = missing.reason if isinstance(missing, Problem) else str(missing)
        yield Check(
            name="broker",
            ok=None,
            said=reason.partition(";")[0],
            todo="start it: stepwrit broker --config FILE",
        )


def witnesses(told: Mapping[str, Any]) -> Iterator[Check]:
    """Whether somebody else vouches for the ledger; a witness that contradicts it fails the check."""
    asked, doubts = told.get("asked", []), told.get("doubts", [])
    if not asked:
        todo = (
            "name one in [[witness]] (docs: how-to/run-a-witness): a machine rolled back shows to nobody else"
        )
        yield Check(
            name="witness", ok=None, said="none: nobody but this machine vouches for the ledger", todo=todo
        )
        return
    objecting = [each for each in asked if each["doubt"]]
    if objecting:
        said = "; ".join(f"{each['name']}: {each['doubt']}" for each in objecting)
        todo = "nothing is granted: find out who set the ledger back, then docs: how-to/incident"
        yield Check(name="witness", ok=False, said=said, todo=todo)
        return
    silent = [f"{each['name']}: {each['failing']}" for each in asked if each["failing"]]
    said = "; ".join([*doubts, *silent]) or ", ".join(
        f"{each['name']} to {each['cosigned']}" for each in asked
    )
    todo = "start it, or look at the way there; issuance ends at [ledger] witness_refuse_after_s"
    yield Check(name="witness", ok=None if doubts or silent else True, said=said, todo=todo)


def _drift(admin: AdminClient, digests: dict[VersionKind, str]) -> Iterator[Check]:
    for kind in KINDS:
        if kind in digests:
            stored = admin.get(f"/{kind}")
            yield _same(kind, stored, digests[kind])


def _same(kind: VersionKind, stored: dict[str, object], digest: str) -> Check:
    version = f"v{stored['version']} in force"
    if stored["digest"] == digest:
        return Check(name=f"{kind} drift", ok=True, said=f"{version} is what the file says")
    said = f"{version} ({stored['source']}, by {stored['by']}: {stored['reason']}) is not what the file says"
    todo = f"put it into the file (stepwrit {kind} export), or the file in force (stepwrit {kind} apply)"
    return Check(name=f"{kind} drift", ok=None, said=said, todo=todo)


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    found: Callable[[Path], bool] = Path.exists
    return next(each for each in (path.absolute(), *path.absolute().parents) if found(each))
