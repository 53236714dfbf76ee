"""A real broker on loopback, and everybody who talks to it: real mTLS, SQLite, Cedar, ledger.

    async with Stage() as stage:
        chat = await stage.actor("agent/chat")
        reply = await chat.json("/v1/steps", {...})

One stage serves a whole test module; `stage.restart()` starts the broker again on the same files. An actor
sends whatever it likes, with its own SVID and its own DPoP key.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import httpx2
import yaml

from stepwrit import shape
from stepwrit._transport import HttpTransport, Transport
from stepwrit.digest import args_digest, body_digest
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.flow import Request
from stepwrit.identity import WorkloadIdentity
from stepwrit.jws import SigningKey
from stepwrit.wire import (
    GRANT_TOKEN_EXCHANGE,
    HEADER_DPOP,
    HEADER_OPERATION,
    TOKEN_TYPE_ACCESS,
    TOKEN_TYPE_ID,
    TOKEN_TYPE_STEP,
    TOKEN_TYPE_TXN,
    TOKEN_TYPE_UNSIGNED,
    CeilingSpec,
    IntentRequest,
)
from stepwrit_broker.attest.federation.partner import Partner
from stepwrit_broker.attest.person import Issuer
from stepwrit_broker.attest.signals import Transmitter
from stepwrit_broker.core.workload import Proxy
from stepwrit_broker.dev.identities import Identities
from stepwrit_broker.dev.oidc import DevIssuer
from stepwrit_broker.dev.tlsfiles import write_tls_files
from stepwrit_broker.dev.workload_api import DevTrustDomain
from stepwrit_broker.policy.files import stance
from stepwrit_broker.ports import LoggedEntry
from stepwrit_broker.wiring.broker import Broker
from stepwrit_broker.wiring.embedded import EmbeddedBacking
from stepwrit_broker.wiring.settings import Address, BrokerSettings

DOMAIN = "stage.test"
ISSUER = "https://broker.stage.test"
BANK, SHOP, BLUE = "https://bank.example", "https://shop.example", "https://blue.example"
AUTHORIZATION = "Bearer a-transmitter-of-this-test"
URL = f"{BANK}/v1/transfers"
BODY = b'{"cents":500}'
ARGS: dict[str, Any] = {"to": "bob", "cents": 500}
LIMITS = """\
version: 1
rates:
  - {name: credentials, on: credentials, per: [workload], rate: 60000/min, burst: 10000}
  - {name: steps, on: steps, per: [workload], rate: 60000/min, burst: 10000}
  - {name: intents, on: intents, per: [workload], rate: 60000/min, burst: 10000}
concurrency:
  - {name: outstanding, per: [workload], max: 10000}
transaction: {steps: 200, depth: 8, fan_out: 60, server_steps: 20}
life: {step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 1h}
count: 3
"""


def spiffe(path: str, domain: str = DOMAIN) -> str:
    return f"spiffe://{domain}/{path}"


def _at(request: str, **more: Any) -> dict[str, Any]:
    return {"at": BANK, "request": request, **more}


ENTRIES: list[dict[str, Any]] = [
    {"id": "agent/chat", "role": "agent", "name": "chat", "clients": ["chat-app"],
     "may_start": {"tools": ["ledger/*", "audit/*", "files/*"], "impact": "high"}},
    {"id": "agent/other", "role": "agent", "name": "other", "clients": ["other-app"],
     "may_start": {"tools": ["ledger/*"], "impact": "high"}},
    {"id": "mcp-server/ledger", "role": "mcp-server", "name": "ledger", "url": "https://ledger.example/mcp",
     "tools": {"transfer": {"impact": "medium", "plan": [_at("POST /v1/transfers")]},
               "transfer_twice": {"impact": "medium", "plan": [_at("POST /v1/transfers", times=2)]},
               "lookup": {"impact": "low", "plan": [_at("GET /v1/accounts/{id}", query=["page"])]},
               "note": {"impact": "low", "plan": "self"},
               "wipe": {"impact": "high", "plan": [_at("DELETE /v1/books")]}},
     "may_start": {"tools": ["audit/*"], "impact": "low"}},
    {"id": "mcp-server/audit", "role": "mcp-server", "name": "audit",
     "tools": {"record": {"impact": "low", "plan": "self"}, "purge": {"impact": "medium", "plan": "self"}},
     "may_start": {"tools": ["ledger/note"], "impact": "low"}},
    {"id": "mcp-server/mallory", "role": "mcp-server", "name": "mallory",
     "tools": {"steal": {"impact": "low", "plan": "self"}},
     "may_start": {"tools": ["audit/*", "ledger/*"], "impact": "high"}},
    {"id": "mcp-server/files/*", "role": "mcp-server", "name": "files",
     "tools": {"put": {"impact": "low", "plan": [_at("POST /v1/files")]}}},
    {"id": "resource/bank/*", "role": "resource", "name": "bank", "audience": BANK},
    {"id": "resource/shop", "role": "resource", "name": "shop", "audience": SHOP},
    {"id": "trigger/nightly", "role": "trigger", "name": "nightly", "owner": "ops@stage.test",
     "may_start": {"tools": ["ledger/*"], "impact": "medium"}},
    {"id": "operator/ops", "role": "operator", "name": "ops"},
    {"id": "agent/blue", "role": "agent", "name": "blue", "tenant": "blue", "clients": ["blue-app"],
     "may_start": {"tools": ["vault/*"], "impact": "low"}},
    {"id": "mcp-server/vault", "role": "mcp-server", "name": "vault", "tenant": "blue",
     "tools": {"read": {"impact": "low", "plan": "self"}}},
    {"id": "resource/blue", "role": "resource", "name": "blue-bank", "tenant": "blue", "audience": BLUE},
    {"id": "operator/blue", "role": "operator", "name": "blue-ops", "tenant": "blue"},
]  # fmt: skip


def new() -> str:
    """A fresh operation id or jti."""
    return secrets.token_hex(16)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer. Asking for `code` or `ref` of what is no refusal fails."""

    status: int
    body: dict[str, Any] = field(repr=False)
    raw: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def refusal(self) -> dict[str, Any]:
        assert "refusal" in self.body, self.raw
        return dict(self.body["refusal"])

    @property
    def code(self) -> str:
        return str(self.refusal["code"])

    def ok(self) -> dict[str, Any]:
        """The body of a good answer."""
        assert self.status in (200, 201), self.raw
        return self.body


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A step and its first token, in the hands of whoever opened it."""

    step: str
    txn: str
    token: str
    args: Mapping[str, Any]
    by: Actor


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One workload with one DPoP key."""

    stage: Stage = field(repr=False)
    path: str
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def id(self) -> str:
        return spiffe(self.path, self.stage.domain)

    def with_new_key(self) -> Actor:
        """The same workload, as another process of it that has another key."""
        return replace(self, key=SigningKey.generate())

    def proof(
        self, path: str, method: str = "POST", *, at: float | None = None, base: str | None = None
    ) -> str:
        """A fresh DPoP proof for a request to the broker."""
        now = self.stage.now() if at is None else at
        return make_proof(self.key, method, (base or self.stage.url) + path, now, new())

    async def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        transport = await self.stage.transport(self.path)
        answer = await transport.send(Request(method=method, path=path, headers=dict(headers), body=body))
        kind = answer.headers.get("content-type", "")
        read = json.loads(answer.body) if "json" in kind else {}
        members = read if isinstance(read, dict) else {"": read}
        return Reply(status=answer.status, body=members, raw=answer.body, headers=answer.headers)

    async def post(
        self,
        path: str,
        body: bytes,
        kind: str = "application/json",
        *,
        op: str | None = None,
        proof: str | None = None,
    ) -> Reply:
        headers = {
            "Content-Type": kind,
            HEADER_OPERATION: op or new(),
            HEADER_DPOP: proof or self.proof(path),
        }
        return await self.send("POST", path, body, headers)

    async def json(self, path: str, members: Mapping[str, Any], **how: Any) -> Reply:
        return await self.post(path, json.dumps(members).encode(), **how)

    async def form(self, members: Mapping[str, str], **how: Any) -> Reply:
        return await self.post(
            "/oauth/token", urlencode(members).encode(), "application/x-www-form-urlencoded", **how
        )

    # --- the verbs, rightly done

    def intent_form(self, id_token: str | None = None, **terms: Any) -> dict[str, str]:
        """An intent's exchange; without an ID token a trigger's own."""
        wanted: dict[str, Any] = {
            "purpose": "pay the invoice",
            "ceiling": CeilingSpec(tools=("ledger/*", "audit/*", "files/*"), impact="high"),
            "exp": int(self.stage.now()) + 600,
        }
        return {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": id_token or json.dumps({"sub": self.id}),
            "subject_token_type": TOKEN_TYPE_UNSIGNED if id_token is None else TOKEN_TYPE_ID,
            "requested_token_type": TOKEN_TYPE_TXN,
            "audience": self.stage.domain,
            "scope": "intent",
            "request_details": json.dumps(shape.write(IntentRequest(**{**wanted, **terms}))),
        }

    async def intent(self, **terms: Any) -> dict[str, Any]:
        """The root of a transaction that a person wants."""
        client = next(e for e in self.stage.entries if e["id"] == self.path).get("clients")
        token = None if client is None else self.stage.issuer.mint("alice", client_id=client[0])
        return (await self.form(self.intent_form(token, **terms))).ok()

    async def open_reply(
        self, parent: str, tool: str = "ledger/transfer", args: Mapping[str, Any] | None = None, **more: Any
    ) -> Reply:
        server, _, name = tool.partition("/")
        how = {key: more.pop(key) for key in ("op", "proof") if key in more}
        asked = {
            "v": 1,
            "parent": parent,
            "server": server,
            "tool": name,
            "args": dict(ARGS if args is None else args),
        }
        return await self.json("/v1/steps", asked | more, **how)

    async def open(self, parent: str, tool: str = "ledger/transfer", **more: Any) -> Opened:
        body = (await self.open_reply(parent, tool, **more)).ok()
        args = more.get("args")
        return Opened(
            step=body["step"],
            txn=body["txn"],
            token=body["token"],
            args=ARGS if args is None else args,
            by=self,
        )

    async def token(self, step: str) -> Reply:
        return await self.json(f"/v1/steps/{step}/token", {"v": 1})

    async def accept(self, opened: Opened, **changes: Any) -> Reply:
        return await self.json(f"/v1/steps/{opened.step}/accept", accept_body(opened) | changes)

    async def credential(
        self, step: str, *, op: str | None = None, proof: str | None = None, **changes: Any
    ) -> Reply:
        return await self.form(credential_form(step, **changes), op=op, proof=proof)

    async def redeem(self, token: str, holder: Actor, *, op: str | None = None, **changes: Any) -> Reply:
        return await self.json("/v1/redeem", redeem_body(token, holder) | changes, op=op)

    async def close(self, step: str, outcome: str = "done") -> Reply:
        return await self.json(f"/v1/steps/{step}/close", {"v": 1, "outcome": outcome})

    async def heartbeat(self, step: str) -> Reply:
        return await self.json(f"/v1/steps/{step}/heartbeat", {"v": 1})


def accept_body(opened: Opened, *, args: Mapping[str, Any] | None = None, turn: int = 1) -> dict[str, Any]:
    """What the performer says when a call arrived as it was sent."""
    digest = args_digest(dict(opened.args if args is None else args))
    proof = make_step_proof(
        opened.by.key, token=opened.token, args=digest, round=turn, now=opened.by.stage.now(), jti=new()
    )
    return {"v": 1, "token": opened.token, "proof": proof, "args": digest, "round": turn}


def credential_form(
    subject: str,
    *,
    method: str = "POST",
    url: str = URL,
    body: bytes = BODY,
    resource: str = BANK,
    **form: str,
) -> dict[str, str]:
    details = {"type": "stepwrit_action", "method": method, "url": url, "body": body_digest(body)}
    return {
        "grant_type": GRANT_TOKEN_EXCHANGE,
        "subject_token": subject,
        "subject_token_type": TOKEN_TYPE_STEP,
        "requested_token_type": TOKEN_TYPE_ACCESS,
        "resource": resource,
        "authorization_details": json.dumps([details]),
        **form,
    }


def redeem_body(
    token: str, holder: Actor, *, method: str = "POST", url: str = URL, body: bytes = BODY
) -> dict[str, Any]:
    """What the guard saw: the credential, a fresh proof by `holder`'s key, the request."""
    proof = make_proof(holder.key, method, url, holder.stage.now(), new(), ath=token_hash(token))
    return {"v": 1, "token": token, "proof": proof, "method": method, "url": url, "body": body_digest(body)}


class Stage:
    """`async with Stage() as stage:`; everything it starts, it ends."""

    def __init__(
        self,
        *,
        entries: list[dict[str, Any]] | None = None,
        limits: str = LIMITS,
        domain: str = DOMAIN,
        policy: str = "approval",
        rules: Mapping[str, str] | None = None,
        foreign: tuple[str, ...] = (),
        proxy: Proxy | None = None,
        proxy_url: str | None = None,
        identities: Identities | None = None,
        issuer: str = ISSUER,
        partners: tuple[Partner, ...] = (),
        workflows: list[dict[str, Any]] | None = None,
        persons: tuple[str, ...] = (),
        peers: list[dict[str, Any]] | None = None,
        signals: bool = False,
    ) -> None:
        """rules: policy files beside the stance's. persons: names in the registry's list, each the issuer's
        subject of that name. proxy: whose forwarded certificates count. proxy_url: where actors find it,
        when it really runs. identities: a trust domain that runs already, such as a SpireDomain of the name
        `domain`. issuer: with a port, the `tls` listener is really there.
        """
        self.proxy, self.proxy_url, self.identities = proxy, proxy_url, identities
        self.partners, self.persons = partners, persons
        self.workflows, self.peers = workflows or [], peers or []
        self.foreign, self.issuer_url = foreign, issuer
        self.signals = signals  # the issuer tells of ended sessions, with the header of AUTHORIZATION
        self.entries = ENTRIES if entries is None else entries
        self.limits, self.domain, self.policy, self.rules = limits, domain, policy, rules or {}
        self.folder = Path(tempfile.mkdtemp(prefix="sw-"))  # short: Unix sockets live below it
        self.tuned: dict[str, Any] = {}  # broker settings that differ, from the next start on
        self.trust: DevTrustDomain
        self.issuer: DevIssuer
        self.broker: Broker
        self._ahead = 0.0
        self._making = asyncio.Lock()
        self._actors: dict[str, Actor] = {}
        self._identities: dict[str, WorkloadIdentity] = {}
        self._transports: dict[str, HttpTransport] = {}

    async def __aenter__(self) -> Self:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # development identities warn; here they are the point
            self.trust = DevTrustDomain(
                self.folder / "wl",
                trust_domain=self.domain,
                names={"stepwrit/broker": ("localhost", "127.0.0.1", "broker.internal")},
            )
            self.issuer = DevIssuer()
            await self.trust.start()
            self.given: Identities = self.identities or self.trust
        await self.issuer.start()
        self.write_registry(self.entries)
        (self.folder / "limits.yaml").write_text(self.limits)
        (self.folder / "policy").mkdir()
        for name, text in {**stance(self.policy), **self.rules}.items():
            (self.folder / "policy" / name).write_text(text)
        try:
            await self.start()
        except BaseException:
            await self._end_rest()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._end_rest()

    async def _end_rest(self) -> None:
        for identity in self._identities.values():
            await identity.close()
        await self.issuer.stop()
        await self.trust.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def start(self) -> None:
        """The broker, on whatever files there are. Raises Unavailable when it refuses them."""
        broker = Broker(self.settings())
        await broker.__aenter__()
        self.broker = broker
        broker.live.now_in_force()

    async def stop(self) -> None:
        """The broker's orderly end; every connection to it goes too."""
        await self.hang_up()
        await self.broker.__aexit__(None, None, None)

    async def hang_up(self) -> None:
        """Close every actor's connections."""
        transports, self._transports = self._transports, {}
        await asyncio.gather(*(each.close() for each in transports.values()))

    @property
    def embedded(self) -> EmbeddedBacking:
        """What the broker stands on here."""
        assert isinstance(self.broker.backing, EmbeddedBacking)
        return self.broker.backing

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def settings(self) -> BrokerSettings:
        folder = self.folder
        cert, key = write_tls_files(folder)
        me = self.given.environment("stepwrit/broker")
        settings = BrokerSettings(
            trust_domain=self.domain,
            issuer=self.issuer_url,
            broker_id=self.broker_id,
            spiffe_socket=me["SPIFFE_ENDPOINT_SOCKET"],
            spiffe_hint=me.get("STEPWRIT_SPIFFE_HINT"),
            store_path=folder / "store" / "stepwrit.db",
            anchor_path=folder / "anchor" / "anchor.json",
            ledger_key=folder / "ledger.key",
            ledger_origin=f"{self.domain}/log",
            registry=folder / "registry.yaml",
            limits=folder / "limits.yaml",
            policy=folder / "policy",
            mtls=Address(host="127.0.0.1", port=0),
            tls=Address(host="127.0.0.1", port=urlsplit(self.issuer_url).port or 0),
            tls_cert=cert,
            tls_key=key,
            ops=Address(host="127.0.0.1", port=0),
            admin=folder / "admin.sock",
            oidc=(Issuer(issuer=self.issuer.url, algorithms=("ES256",)),),
            transmitters=self._transmitters(),
            watch_every_s=3600.0,
            proxy=self.proxy,
            partners=self.partners,
            mtls_url=self.proxy_url,
        )
        return replace(settings, **self.tuned)

    def _transmitters(self) -> tuple[Transmitter, ...]:
        if not self.signals:
            return ()
        path = self.folder / "authorization"
        path.write_text(f"{AUTHORIZATION}\n")
        events = frozenset({"session-revoked", "credential-change", "account-disabled", "account-purged"})
        one = Transmitter(issuer=self.issuer.url, audience=ISSUER, events=events, authorization_file=path)
        return (one,)

    def write_registry(self, entries: list[dict[str, Any]]) -> None:
        read = [self._entry(each) for each in json.loads(json.dumps(entries))]
        document = {
            "version": 1,
            "tenant": "default",
            "trust_domains": list(self.foreign),
            "persons": [self._person(each) for each in self.persons],
            "entries": read,
            "peers": self.peers,
            "workflows": self.workflows,
            "count": len(read),
        }
        (self.folder / "registry.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def _person(self, name: str) -> dict[str, Any]:
        return {"name": name, "identities": [{"issuer": self.issuer.url, "subject": name}]}

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        if not entry["id"].startswith("spiffe://"):  # a foreign workload says its whole ID
            entry["id"] = spiffe(entry["id"], self.domain)
        if "clients" in entry:
            entry["clients"] = [{"issuer": self.issuer.url, "client_id": name} for name in entry["clients"]]
        return entry

    @property
    def broker_id(self) -> str:
        return spiffe("stepwrit/broker", self.domain)

    @property
    def url(self) -> str:
        """Where workloads reach the broker: itself, or the proxy before it."""
        return self.broker.mtls_url

    @property
    def tls_url(self) -> str:
        """Where the listener without client certificates really is; key proofs name ISSUER."""
        assert self.broker.tls is not None
        return self.broker.tls.url

    def now(self) -> float:
        """Seconds since the epoch, by the clock of the broker and of all actors."""
        return time.time() + self._ahead

    def pass_time(self, seconds: float) -> None:
        """Let time pass for the broker (wall and steady clock alike: no jump) and for all actors."""
        self._ahead += seconds
        clock = self.broker.clock
        wall, elapsed = clock._wall, clock._elapsed
        clock._wall, clock._elapsed = lambda: wall() + seconds, lambda: elapsed() + seconds

    # --- who there is

    async def actor(self, path: str) -> Actor:
        """The workload with this ID path, registered or not; it keeps its key for the stage's life."""
        if path not in self._actors:
            self._actors[path] = Actor(stage=self, path=path)
        return self._actors[path]

    async def actors(self, *paths: str) -> list[Actor]:
        return [await self.actor(path) for path in paths]

    async def transport(self, path: str) -> Transport:
        """The way of one workload to the broker, by its SVID."""
        async with self._making:  # thirty-two first requests at once make one
            if path not in self._transports:
                identity = await self._identity(path)
                ends_tls = self.proxy.id if self.proxy and self.proxy_url else self.broker_id
                self._transports[path] = HttpTransport(self.url, identity, ends_tls)
            return self._transports[path]

    async def identity(self, path: str) -> WorkloadIdentity:
        """The workload's own watch of the Workload API."""
        async with self._making:
            return await self._identity(path)

    async def _identity(self, path: str) -> WorkloadIdentity:
        if path not in self._identities:
            me = self.given.environment(path)
            identity = WorkloadIdentity(me["SPIFFE_ENDPOINT_SOCKET"], hint=me.get("STEPWRIT_SPIFFE_HINT"))
            await identity.start()
            await identity.wait_ready(30)
            self._identities[path] = identity
        return self._identities[path]

    # --- the operator, and what is on record

    async def admin(self, method: str, path: str, members: Mapping[str, Any] | None = None) -> Reply:
        """One request on the admin socket."""
        transport = httpx2.AsyncHTTPTransport(uds=str(self.folder / "admin.sock"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://admin") as http:
            answer = await http.request(method, path, json=members, headers={HEADER_OPERATION: new()})
        read = answer.json()
        return Reply(
            status=answer.status_code, body=read if isinstance(read, dict) else {"": read}, raw=answer.content
        )

    async def mark(self, verb: str, target: str) -> Reply:
        """Revoke, freeze or unfreeze."""
        return await self.admin(
            "POST", "/v1/admin/marks", {"verb": verb, "target": target, "reason": "a test says so"}
        )

    async def apply(self, kind: str, text: str) -> Reply:
        """Put a document in force at run time."""
        body = {"text": text, "source": f"/test/{new()}", "reason": "a test says so"}
        return await self.admin("POST", f"/v1/admin/{kind}/apply", body)

    def on_record(self, ref: str) -> list[LoggedEntry]:
        """The ledger's entries under a ref."""
        return list(self.broker.ledger.by_ref(ref, None))

    def happened(self, txn: str, kind: str) -> list[LoggedEntry]:
        """The entries of one kind in a transaction."""
        return [entry for entry in self.broker.ledger.of_txn(txn) if entry.kind == kind]

    def forget_refusals(self) -> None:
        """New windows for the refusals that each caller may have on record."""
        self.broker.housed.refusals._tallies.clear()

    # --- the right way, as far as a test needs it

    async def root(self, path: str = "agent/chat", **terms: Any) -> dict[str, Any]:
        return await (await self.actor(path)).intent(**terms)

    async def opened(self, tool: str = "ledger/transfer", **more: Any) -> Opened:
        """A step that the chat agent opened under a fresh intent."""
        chat = await self.actor("agent/chat")
        return await chat.open((await chat.intent())["step"], tool, **more)

    async def accepted(self, tool: str = "ledger/transfer", **more: Any) -> Opened:
        """… and that its server accepted."""
        opened = await self.opened(tool, **more)
        (await (await self.actor(f"mcp-server/{tool.partition('/')[0]}")).accept(opened)).ok()
        return opened

    async def held(self) -> Held:
        """… and for which it holds a credential."""
        opened, ledger = await self.accepted(), await self.actor("mcp-server/ledger")
        got = (await ledger.credential(opened.step)).ok()
        bank = await self.actor("resource/bank/1")
        return Held(
            step=opened.step, txn=opened.txn, opened=opened, token=got["access_token"], grant=got["grant"],
            ledger=ledger, bank=bank,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Held:
    """A credential in its owner's hands, and the resource it is for."""

    step: str
    txn: str
    opened: Opened
    token: str
    grant: str
    ledger: Actor
    bank: Actor

    async def redeem(self, **changes: Any) -> Reply:
        """The bank redeems what it was shown, with a fresh proof and a fresh operation."""
        return await self.bank.redeem(self.token, self.ledger, **changes)


def refused(stage: Stage, reply: Reply, *codes: str) -> LoggedEntry:
    """The refusal has one of the codes and a ref, and the ledger has it under that ref."""
    assert reply.status >= 400, reply.raw
    assert reply.code in codes, reply.raw
    ref = reply.refusal.get("ref")
    assert ref, reply.raw
    assert reply.refusal["reason"]
    found = [entry for entry in stage.on_record(ref) if entry.kind == "refused"]
    assert len(found) == 1, f"not on record: {reply.raw!r}"
    facts = found[0].facts
    assert facts is not None
    assert facts["code"] == reply.code
    return found[0]


def redeemed(stage: Stage, txn: str) -> int:
    """How many uses the ledger has in a transaction."""
    return len(stage.happened(txn, "grant.redeemed"))
