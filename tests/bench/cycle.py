"""The five calls of a cycle, as an agent, a tool server and a resource make them.

The DPoP proofs of `open` and `credential` are signed ahead, in bounded batches; the initiator's proof at
`accept` and the presenter's at `redeem` name a token that has to be there first, so they are signed live.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.bench.client import Answer, Line, post
from tests.bench.world import AUDIENCE

from stepwrit.digest import args_digest, body_digest
from stepwrit.dpop import make_proof, make_step_proof, token_hash
from stepwrit.jws import SigningKey
from stepwrit.wire import ACTION_TYPE, GRANT_TOKEN_EXCHANGE, TOKEN_TYPE_ACCESS, TOKEN_TYPE_STEP

VERBS = ("open", "accept", "credential", "redeem", "close")
AHEAD_S = 45.0  # a proof is good for 60 s
_ARGS = {"from": "acc-20391", "to": "acc-88120", "amount_cents": 12_500, "currency": "EUR", "memo": "March"}
_BODY = json.dumps(_ARGS).encode()
_URL = f"{AUDIENCE}/v1/transfers"
_FORM = "application/x-www-form-urlencoded"


class RefusedError(RuntimeError):
    """An answer that is no success; the message is its start."""


@dataclass(slots=True, kw_only=True)
class Lane:
    """One cycle at a time: a connection for each role, and the intent that its steps hang on."""

    agent: Line
    server: Line
    bank: Line
    parent: str

    def close(self) -> None:
        """Let go of the connections."""
        for line in (self.agent, self.server, self.bank):
            line.close()


@dataclass(slots=True)
class Cycle:
    """What one cycle has learned so far."""

    lane: Lane
    step: str = ""
    token: str = ""
    credential: str = ""
    grant: str = ""


@dataclass(slots=True)
class Proofs:
    """The generator's keys, one per role, and proofs signed ahead by path with the time they were made."""

    base: str
    agent: SigningKey = field(default_factory=SigningKey.generate)
    server: SigningKey = field(default_factory=SigningKey.generate)
    _ahead: dict[str, deque[tuple[float, str]]] = field(default_factory=dict)
    _count: int = 0
    _run: str = field(default_factory=lambda: os.urandom(6).hex())

    def name(self) -> str:
        """A fresh name for an operation or a proof."""
        self._count += 1
        return f"bench-{self._run}-{self._count}"

    def sign_ahead(self, cycles: int) -> None:
        """Proofs for this many cycles."""
        for key, path in ((self.agent, "/v1/steps"), (self.server, "/oauth/token")):
            pool = self._ahead.setdefault(path, deque())
            pool.clear()
            pool.extend((time.time(), self._made(key, path)) for _ in range(cycles))

    def dpop(self, path: str) -> str:
        """One proof for a POST to this path, from the pool if that has a fresh one."""
        pool = self._ahead.get(path)
        while pool:
            made, proof = pool.popleft()
            if time.time() - made < AHEAD_S:
                return proof
        return self._made(self.agent if path == "/v1/steps" else self.server, path)

    def intent_proof(self) -> str:
        """For starting an intent: by the agent's key."""
        return self._made(self.agent, "/oauth/token")

    def _made(self, key: SigningKey, path: str) -> str:
        return make_proof(key, "POST", self.base + path, time.time(), self.name())


class Caller:
    """Makes the calls. Every method raises RefusedError for an answer other than success."""

    def __init__(self, proofs: Proofs) -> None:
        self.proofs = proofs
        self.answers: dict[str, Answer] = {}
        """The last answer to each verb, for the floor to give."""
        self._args = args_digest(dict(_ARGS))
        self._digest = body_digest(_BODY)
        details = {"type": ACTION_TYPE, "method": "POST", "url": _URL, "body": self._digest}
        self._form = urlencode(
            {
                "grant_type": GRANT_TOKEN_EXCHANGE,
                "subject_token_type": TOKEN_TYPE_STEP,
                "requested_token_type": TOKEN_TYPE_ACCESS,
                "resource": AUDIENCE,
                "authorization_details": json.dumps([details], separators=(",", ":")),
            }
        )

    async def call(self, verb: str, cycle: Cycle) -> None:
        """One of the five."""
        await getattr(self, verb)(cycle)

    async def open(self, cycle: Cycle) -> None:
        asked = {"v": 1, "parent": cycle.lane.parent, "server": "ledger", "tool": "transfer", "args": _ARGS}
        raw = post("/v1/steps", _json(asked), self.proofs.name(), proof=self.proofs.dpop("/v1/steps"))
        said = self._ok("open", await cycle.lane.agent.ask(raw))
        cycle.step, cycle.token = said["step"], said["token"]

    async def accept(self, cycle: Cycle) -> None:
        made = make_step_proof(
            self.proofs.agent,
            token=cycle.token,
            args=self._args,
            round=1,
            now=time.time(),
            jti=self.proofs.name(),
        )
        asked = {"v": 1, "token": cycle.token, "proof": made, "args": self._args, "round": 1}
        raw = post(f"/v1/steps/{cycle.step}/accept", _json(asked), self.proofs.name())
        self._ok("accept", await cycle.lane.server.ask(raw))

    async def credential(self, cycle: Cycle) -> None:
        body = f"{self._form}&subject_token={cycle.step}".encode()
        proof = self.proofs.dpop("/oauth/token")
        raw = post("/oauth/token", body, self.proofs.name(), proof=proof, kind=_FORM)
        said = self._ok("credential", await cycle.lane.server.ask(raw))
        cycle.credential, cycle.grant = said["access_token"], said["grant"]

    async def redeem(self, cycle: Cycle) -> None:
        made = make_proof(
            self.proofs.server,
            "POST",
            _URL,
            time.time(),
            self.proofs.name(),
            ath=token_hash(cycle.credential),
        )
        asked = {
            "v": 1,
            "token": cycle.credential,
            "proof": made,
            "method": "POST",
            "url": _URL,
            "body": self._digest,
        }
        said = self._ok(
            "redeem", await cycle.lane.bank.ask(post("/v1/redeem", _json(asked), self.proofs.name()))
        )
        if said["grant"] != cycle.grant:
            raise RefusedError("redeem: the go-ahead is for another grant")

    async def close(self, cycle: Cycle) -> None:
        raw = post(f"/v1/steps/{cycle.step}/close", b'{"v":1,"outcome":"done"}', self.proofs.name())
        said = self._ok("close", await cycle.lane.server.ask(raw))
        if said["state"] != "done":
            raise RefusedError(f"close: the step is {said['state']}")

    def _ok(self, verb: str, answer: Answer) -> dict[str, str]:
        status, body = answer
        if status not in (200, 201):
            raise RefusedError(f"{verb}: {status} {body[:300].decode(errors='replace')}")
        self.answers[verb] = answer
        said: dict[str, str] = json.loads(body)
        return said


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
