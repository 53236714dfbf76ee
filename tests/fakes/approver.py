"""A stage on which persons are registered, policies name them as approvers, and each holds keys of their own.

async with ApprovalStage() as stage:
    bob = await Approver.registered(stage, "bob")
    shown = await bob.show(approval)
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.fakes.bearer import tls_client
from tests.fakes.stage import ENTRIES, ISSUER, LIMITS, Reply, Stage, new

from stepwrit.digest import b64u, body_digest
from stepwrit_broker.approvals.keys import jwk_of
from stepwrit_broker.core.authenticator import key_id
from stepwrit_broker.core.statement import approval_statement, request_statement
from stepwrit_broker.dev.oidc_code import pages_client
from stepwrit_broker.wiring.settings import BrokerSettings

OTHER_IDP = "https://two.example"
ASKED_AT_WILL = LIMITS.replace(
    "life:", "approvals: {per_requester: 1000, per_initiator: 1000, cooldown: 1s}\nlife:"
)
HIGH = ("wipe", "pair", "others", "both")
POLICY = """\
@id("wipe")
@verdict("needs_approval")
@setting("a test's policy")
forbid (principal, action, resource)
when { context has action && context.action.tool == "ledger/wipe" } unless { context has approval };

@id("pair")
@verdict("needs_approval")
@setting("a test's policy")
@approvers("bob carol")
@signatures("2")
forbid (principal, action, resource)
when { context has action && context.action.tool == "ledger/pair" } unless { context has approval };

@id("others")
@verdict("needs_approval")
@setting("a test's policy")
@approvers("alice bob")
@requester("may not sign")
forbid (principal, action, resource)
when { context has action && context.action.tool == "ledger/others" } unless { context has approval };

@id("both")
@verdict("needs_approval")
@setting("a test's policy")
@approvers("alice bob")
@signatures("2")
@requester("may sign")
forbid (principal, action, resource)
when { context has action && context.action.tool == "ledger/both" } unless { context has approval };
"""


class ApprovalStage(Stage):
    """Alice wants things. Bob has two identities, carol one, eve is nobody's approver."""

    def __init__(self, **how: Any) -> None:
        entries = json.loads(json.dumps(ENTRIES))
        tools = next(each for each in entries if each["id"] == "mcp-server/ledger")["tools"]
        tools |= {name: {"impact": "high", "plan": "self"} for name in HIGH}
        super().__init__(entries=entries, limits=ASKED_AT_WILL, **how)

    def write_registry(self, entries: list[dict[str, Any]]) -> None:
        super().write_registry(entries)
        file, idp = self.folder / "registry.yaml", self.issuer.url
        document = yaml.safe_load(file.read_text())
        document["persons"] = [
            {"name": name, "identities": [{"issuer": idp, "subject": name}]} for name in ("alice", "carol")
        ]
        both = [{"issuer": idp, "subject": "bob"}, {"issuer": OTHER_IDP, "subject": "robert"}]
        document["persons"].append({"name": "bob", "identities": both})
        document["count"] = document.pop("count")  # the last line
        file.write_text(yaml.safe_dump(document, sort_keys=False))

    async def start(self) -> None:
        """With the policies above in place of the stance's own."""
        (self.folder / "policy" / "40-approval.cedar").write_text(POLICY)
        await super().start()

    def settings(self) -> BrokerSettings:
        """Persons may also sign in at the issuer, and sign by it."""
        return replace(super().settings(), sign_in=pages_client(self.issuer.code, self.issuer_url))

    @property
    def now_ahead(self) -> float:
        """By how many seconds our time is ahead of the machine's."""
        return self.now() - time.time()

    async def asked(
        self, tool: str = "wipe", args: Mapping[str, Any] | None = None, **terms: Any
    ) -> dict[str, Any]:
        """A step for alice that waits: what its initiator was told of the approval. terms: of its intent."""
        self.pass_time(1)  # beyond the cool-down of a denial before
        chat = await self.actor("agent/chat")
        token = self.issuer.mint("alice", client_id="chat-app", life_s=self.now_ahead + 300)
        root = (await chat.form(chat.intent_form(token, **terms))).ok()
        reply = await chat.open_reply(root["step"], f"ledger/{tool}", args or {"n": "1"})
        assert reply.code == "authorization_pending", reply.raw
        news: dict[str, Any] = reply.refusal["approval"]
        return news

    async def polled(self, news: Mapping[str, Any]) -> Reply:
        """The initiator asks again, when it may."""
        self.pass_time(6)
        return await (await self.actor("agent/chat")).token(news["step"])


Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def new_key(kind: str = "ed25519") -> Private:
    return (
        ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )


def raw_signature(private: Private, said: bytes) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(said)
    r, s = decode_dss_signature(private.sign(said, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass(frozen=True, kw_only=True)
class Approver:
    """Somebody with a key, registered or not, at the `tls` listener."""

    stage: ApprovalStage = field(repr=False)
    private: Private = field(default_factory=new_key, repr=False)

    @staticmethod
    async def registered(stage: ApprovalStage, person: str | None = None, **body: Any) -> Approver:
        """A new key that the operator registered for a person of the list, or for issuer and subject."""
        made = Approver(stage=stage, private=new_key(body.pop("kind", "ed25519")))
        (await made.register(person=person, **body)).ok()
        return made

    async def register(self, **body: Any) -> Reply:
        members = {"key": self.public_pem, "reason": "handed over in person", **body}
        given = {name: value for name, value in members.items() if value is not None}
        return await self.stage.admin("POST", "/v1/admin/authenticators", given)

    @property
    def public_pem(self) -> str:
        return (
            self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )

    @property
    def id(self) -> str:
        return key_id(jwk_of(self.private.public_key()))

    # --- requests

    async def nonce(self) -> str:
        async with tls_client(self.stage) as http:
            return (await http.get("/v1/approvals")).headers["stepwrit-nonce"]

    async def statement(self, method: str, path: str, body: bytes, /, **changes: Any) -> bytes:
        """About this request, rightly made but for the changes."""
        members: dict[str, Any] = {
            "key": self.id,
            "method": method,
            "url": ISSUER + path,
            "body": body_digest(body),
            "at": int(self.stage.now()),
            "jti": new(),
            "nonce": await self.nonce() if "nonce" not in changes else "",
        }
        return request_statement(**{**members, **changes})

    def token(self, said: bytes, signature: bytes | None = None) -> str:
        made = raw_signature(self.private, said) if signature is None else signature
        return f"Stepwrit-Key {b64u(said)}.{b64u(made)}"

    async def send(self, method: str, path: str, body: bytes = b"", *, token: str | None = None) -> Reply:
        """A request, with a right token unless one is given; an empty one is left out."""
        shown = self.token(await self.statement(method, path, body)) if token is None else token
        headers = {"authorization": shown} if shown else {}
        async with tls_client(self.stage) as http:
            answer = await http.request(method, path, content=body, headers=headers)
        return _reply(answer)

    # --- the verbs, rightly done

    async def waiting(self) -> Reply:
        return await self.send("GET", "/v1/approvals")

    async def show(self, name: str) -> Reply:
        return await self.send("GET", f"/v1/approvals/{name}")

    async def deny(self, name: str, **body: Any) -> Reply:
        raw = json.dumps({"v": 1, "reason": "no", **body}).encode()
        return await self.send("POST", f"/v1/approvals/{name}/denial", raw)

    def said(self, shown: Mapping[str, Any], **changes: Any) -> bytes:
        """What to sign for what was shown."""
        members = {
            "issuer": ISSUER,
            "approval": shown["id"],
            "key": self.id,
            "attempt": shown["attempt"],
            "digest": shown["digest"],
        }
        return approval_statement(**{**members, **changes})

    async def hand_in(self, name: str, attempt: str, signature: bytes, *, key: str | None = None) -> Reply:
        body = {"v": 1, "key": key or self.id, "attempt": attempt, "signature": b64u(signature)}
        return await self.send(
            "POST", f"/v1/approvals/{name}/signatures", json.dumps(body).encode(), token=""
        )

    async def hand_in_own(self, shown: Mapping[str, Any], name: str | None = None) -> Reply:
        """Sign what was shown, whoever it was shown to."""
        signature = raw_signature(self.private, self.said(shown))
        return await self.hand_in(name or shown["id"], shown["attempt"], signature)

    async def sign(self, name: str) -> Reply:
        """Look, and sign what was shown."""
        return await self.hand_in_own((await self.show(name)).ok())


def _reply(answer: httpx2.Response) -> Reply:
    read = json.loads(answer.content) if "json" in answer.headers.get("content-type", "") else {}
    return Reply(status=answer.status_code, body=read, raw=answer.content, headers=answer.headers)
