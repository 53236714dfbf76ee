"""A small broker behind the transport seam, for the tests of the client, the agent and the server side.

It keeps every request, answers by the contract's shapes, and can be told to fail. It decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import anyio

from stepwrit import shape
from stepwrit.client import Parts
from stepwrit.digest import args_digest
from stepwrit.dpop import verify_proof
from stepwrit.flow import Lost, Request, Response, Retry
from stepwrit.jws import SigningKey
from stepwrit.tokens import StepToken
from stepwrit.wire import Refusal

ISSUER = "https://issuer.example"
DOMAIN = "prod.example"
AGENT = "spiffe://prod.example/agent/chat"
SERVER = "spiffe://prod.example/mcp/ledger"
BASE = "https://broker.example"


class SetClock:
    """A clock that stands still until moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.at = now

    def now(self) -> float:
        return self.at


class Counting:
    """Different every time, the same in every run."""

    def __init__(self) -> None:
        self.count = 0

    def bytes(self, count: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(count, "big")


@dataclass
class Row:
    id: str
    parent: str | None
    server: str
    tool: str
    args: dict[str, object]
    jkt: str
    initiator: str
    state: str = "opened"
    round: int = 0
    outcome: str | None = None


@dataclass
class FakeBroker:
    """state of all steps, every request seen, and failures to come: verb -> list of what to do instead."""

    clock: SetClock
    performer: str = SERVER
    heartbeat_s: int = 20
    rows: dict[str, Row] = field(default_factory=dict)
    seen: list[tuple[str, Request]] = field(default_factory=list)
    instead: dict[str, list[Callable[[Request], Response] | Exception]] = field(default_factory=dict)
    after: dict[str, list[Exception]] = field(default_factory=dict)
    st_key: SigningKey = field(default_factory=lambda: SigningKey.generate(kid="st-1"))
    at_key: SigningKey = field(default_factory=lambda: SigningKey.generate(kid="at-1"))
    replies: dict[str, Response] = field(default_factory=dict)
    count: int = 0
    token_life: int = 60
    ends: list[tuple[str, str]] = field(default_factory=list)  # of steps, by others: id and state
    news: anyio.Event = field(default_factory=anyio.Event)
    forgets: bool = False
    told: int = 0  # ends that were told

    # --- the transport

    def sent_by(self, who: str) -> Port:
        return Port(self, who)

    def parts(self, entropy: Counting | None = None) -> Parts:
        return Parts(base_url=BASE, clock=self.clock, entropy=entropy, retry=Retry())

    def answer(self, who: str, request: Request) -> Response:
        verb, step = verb_of(request)
        self.seen.append((verb, request))
        planned = self.instead.get(verb)
        if planned:
            deed = planned.pop(0)
            if isinstance(deed, Exception):
                raise deed
            return deed(request)
        operation = request.headers.get("Idempotency-Key")
        if operation is not None and operation in self.replies:
            return self.replies[operation]
        members = self.act(verb, step, who, request)
        response = members if isinstance(members, Response) else ok(members)
        if operation is not None:
            self.replies[operation] = response
        lost = self.after.get(verb)
        if lost:
            raise lost.pop(0)
        return response

    def act(self, verb: str, step: str, who: str, request: Request) -> dict[str, object] | Response:
        if verb == "metadata":
            return {"issuer": ISSUER, "jwks_uri": "x", "stepwrit_trust_domain": DOMAIN}
        if verb == "jwks":
            return {"keys": [self.st_key.published_jwk, self.at_key.published_jwk]}
        if verb == "token":
            return self.exchange(who, request)
        body = json.loads(request.body)
        if verb == "open":
            jkt = proof_jkt(request, self.clock.now())
            row = self.add(body["parent"], body["server"], body["tool"], body["args"], jkt, who)
            return self.opened(row)
        if verb == "redeem":
            return {
                "grant": "grt_1", "step": "s", "txn": "t", "ref": "R", "tool": "ledger/transfer",
                "origin": "model", "requester": None, "performer": SERVER, "chain": [],
            }  # fmt: skip
        if verb == "mark":
            return {"target": body["target"], "verb": body["verb"], "ref": "R"}
        if verb == "ended":
            after = body.get("after")
            fresh = self.ends[int(after) :] if after is not None else []
            self.told += len(fresh)
            return {
                "after": str(len(self.ends)), "complete": after is not None and not self.forgets,
                "steps": [{"step": one, "state": state, "ref": "REF"} for one, state in fresh],
            }  # fmt: skip
        row = self.rows.get(step)
        if row is None:
            return refused("not_found", 404)
        return self.move(verb, row, body)

    def move(self, verb: str, row: Row, body: dict[str, object]) -> dict[str, object] | Response:
        if verb == "fresh":
            return self.opened(row)
        if verb == "accept":
            if body.get("finding"):
                return refused(str(body["finding"]), 403, ref="REPORTED")
            due = {"opened": 1, "waiting": row.round + 1}.get(row.state)
            if body["round"] != due:
                return refused("already_done" if row.state == "done" else "replay", 409)
            row.state, row.round = "accepted", int(str(body["round"]))
            return self.accepted(row)
        if verb == "wait":
            row.state = "waiting"
        if verb == "close":
            row.state = row.outcome = str(body["outcome"])
        return {"step": row.id, "state": row.state, "ref": "REF" + row.id, "revoked": 0}

    # --- answers

    def exchange(self, who: str, request: Request) -> dict[str, object] | Response:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        jkt = proof_jkt(request, self.clock.now())
        self.count += 1
        if form["subject_token_type"].endswith(":step"):
            row = self.rows[form["subject_token"]]
            if row.state != "accepted":
                return refused("closed", 403)
            return {
                "access_token": f"credential-{self.count}", "issued_token_type": "x", "token_type": "DPoP",
                "expires_in": 60, "authorization_details": [], "grant": f"grt_{self.count}", "ref": "REF",
            }  # fmt: skip
        if "without_step" in form["request_details"] and '"without_step":null' not in form["request_details"]:
            return refused("no_step", 400)
        row = self.add(None, "", "", {}, jkt, who)
        human = form["subject_token_type"].endswith(":id_token")
        return {
            "access_token": "root", "issued_token_type": "x", "token_type": "N_A", "expires_in": 900,
            "scope": "intent", "step": row.id, "txn": "txn_1", "ref": "REFROOT",
            "origin": "human" if human else "server", "proof": "presented" if human else None,
        }  # fmt: skip

    def add(
        self, parent: str | None, server: str, tool: str, args: dict[str, object], jkt: str, who: str
    ) -> Row:
        self.count += 1
        row = Row(f"stp_{self.count}", parent, server, tool, args, jkt, who)
        self.rows[row.id] = row
        return row

    def opened(self, row: Row) -> dict[str, object]:
        return {
            "step": row.id, "txn": "txn_1", "token": self.token(row), "expires_in": self.token_life,
            "origin": "model" if row.initiator == AGENT else "server", "performer": self.performer_of(row),
            "ref": "REF",
            "added_by_a_newer_version": 1,
        }  # fmt: skip

    def token(self, row: Row, **changes: object) -> str:
        self.count += 1
        now = int(self.clock.now())
        claims = {
            "issuer": ISSUER, "trust_domain": DOMAIN, "txn": "txn_1", "step": row.id, "subject": "person",
            "scope": tool_of(row), "initiator": row.initiator, "initiator_jkt": row.jkt,
            "performer": self.performer_of(row), "origin": "model", "tool": tool_of(row),
            "parent": row.parent,
            "args": args_digest(row.args), "purpose": "test", "intent_origin": "human", "proof": "presented",
            "iat": now, "exp": now + self.token_life, "jti": f"j{self.count}",
        } | changes  # fmt: skip
        return self.st_key.sign("txntoken+jwt", StepToken(**claims).claims())  # type: ignore[arg-type]

    def accepted(self, row: Row) -> dict[str, object]:
        return {
            "step": row.id, "txn": "txn_1", "ref": "REF" + row.id, "round": row.round, "origin": "model",
            "requester": "person", "purpose": "test", "tool": tool_of(row), "plan": [],
            "chain": self.chain(row), "heartbeat_s": self.heartbeat_s, "ends_at": self.clock.now() + 900,
        }  # fmt: skip

    def end(self, tool: str, state: str) -> None:
        """Others end the first step of a tool, and who runs it hears of it."""
        row = self.of(tool)[0]
        row.state = state
        self.ends.append((row.id, state))
        self.news.set()

    def performer_of(self, row: Row) -> str:
        """What is asked of a client is performed by whoever opened the step above."""
        return self.rows[row.parent or ""].initiator if row.server == "client" else self.performer

    def chain(self, row: Row) -> list[dict[str, object]]:
        parent = self.rows.get(row.parent or "")
        above = [] if parent is None else self.chain(parent)
        who = {"initiator": row.initiator, "performer": self.performer_of(row)}
        hop = {"step": row.id, "origin": "model", "tool": tool_of(row), **who}
        return [*above, hop] if row.tool else above

    # --- for assertions

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.seen if verb not in ("metadata", "jwks")]

    def of(self, tool: str) -> list[Row]:
        return [row for row in self.rows.values() if row.tool == tool]

    def bodies(self, verb: str) -> list[dict[str, object]]:
        return [json.loads(request.body) for name, request in self.seen if name == verb]


@dataclass
class Port:
    """One caller's transport."""

    broker: FakeBroker
    who: str

    async def send(self, request: Request) -> Response:
        if (
            verb_of(request)[0] == "ended"
            and b'"after"' in request.body
            and not self.broker.instead.get("ended")
        ):
            while json.loads(request.body)["after"] == str(len(self.broker.ends)) and not self.broker.forgets:
                await self.broker.news.wait()
                self.broker.news = anyio.Event()
        return self.broker.answer(self.who, request)

    async def close(self) -> None:
        pass


@dataclass
class SyncPort:
    broker: FakeBroker
    who: str

    def send(self, request: Request) -> Response:
        return self.broker.answer(self.who, request)

    def close(self) -> None:
        pass


def tool_of(row: Row) -> str:
    return f"client/{row.tool}" if row.server == "client" else f"ledger/{row.tool}"


def verb_of(request: Request) -> tuple[str, str]:
    path = request.path
    flat = {
        "/.well-known/oauth-authorization-server": "metadata", "/oauth/jwks": "jwks", "/oauth/token": "token",
        "/v1/steps": "open", "/v1/steps/ended": "ended", "/v1/redeem": "redeem", "/v1/revocations": "mark",
    }  # fmt: skip
    if path in flat:
        return flat[path], ""
    _, _, _, step, verb = path.split("/")
    return {"token": "fresh"}.get(verb, verb), step


def proof_jkt(request: Request, now: float) -> str:
    proof = request.headers["DPoP"]
    return verify_proof(proof, htm=request.method, htu=BASE + request.path, now=now, leeway=5).jkt


def ok(members: object) -> Response:
    return Response(status=200, headers={}, body=json.dumps(members).encode())


def refused(code: str, status: int, *, ref: str = "REFUSED", retry_after: float | None = None) -> Response:
    refusal = Refusal(code=code, reason="because the policy text says so", ref=ref, retry_after=retry_after)
    return Response(status=status, headers={}, body=json.dumps({"refusal": shape.write(refusal)}).encode())


def lost(*, sent: bool = True) -> Lost:
    return Lost("the connection broke", sent=sent)


async def no_sleep(_seconds: float) -> None:
    pass
