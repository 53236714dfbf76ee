"""The in-memory broker: who may open what. Real tokens and states, rules in miniature, nothing durable."""

from __future__ import annotations

from typing import Final

from stepwrit import _testing_approving as approving
from stepwrit import _testing_asks as asks
from stepwrit._testing_books import (
    RANK,
    Ceiling,
    Entry,
    GrantRow,
    Ledger,
    No,
    Server,
    StepRow,
    Tool,
    Txn,
)
from stepwrit._testing_callers import Caller, Keys
from stepwrit._testing_ended import Endings
from stepwrit._testing_registry import Registry
from stepwrit.clock import Clock, Entropy
from stepwrit.digest import DigestError, args_digest
from stepwrit.jws import TokenRefused, split, verify
from stepwrit.tokens import StepToken
from stepwrit.wire import (
    STEP_TOKEN_S,
    TYP_STEP_TOKEN,
    HopSpec,
    IntentRequest,
    OpenStepRequest,
    Origin,
    StepOpened,
)
from stepwrit.wire_acts import CLIENT, is_act

TRUST_DOMAIN: Final = "test.internal"
TYP_ID_TOKEN: Final = "JWT"  # noqa: S105  a type
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ORIGIN_RANK: Final[dict[str, int]] = {"server": 0, "model": 1, "human": 2}
_ENDED: Final = {"done": "already_done", "failed": "already_done", "cancelled": "closed"}


class Opening:
    """Intent, open, token. Each verb does everything it says or, with a No, nothing."""

    def __init__(self, *, issuer: str, clock: Clock, entropy: Entropy) -> None:
        self.issuer: Final = issuer
        self.clock: Final = clock
        self.registry: Final = Registry()
        self.registry.servers[CLIENT] = Server(name=CLIENT, spiffe_id=f"spiffe://{TRUST_DOMAIN}/client")
        self.registry.tools.update(asks.tools())
        self.ledger: Final = Ledger()
        self.keys: Final = Keys()
        self.marks: Final[set[str]] = set()
        self.endings: Final = Endings()
        self._entropy: Final = entropy
        self._steps: Final[dict[str, StepRow]] = {}
        self._grants: Final[dict[str, GrantRow]] = {}
        self._id_tokens: Final[set[str]] = set()

    # --- opening

    def intent(self, caller: Caller, id_token: str, request: IntentRequest) -> tuple[StepRow, str]:
        """A root, and its token."""
        if caller.spiffe_id not in self.registry.agents:
            raise No("not_registered", "only an agent exchanges a person's proof")
        subject, used = self._person(id_token, caller.spiffe_id)
        if not self.clock.now() < request.exp:
            raise No("invalid_request", "exp is not in the future")
        txn = Txn(
            id=self._id("txn"),
            requester=subject,
            proof="presented",
            origin="human",
            purpose=request.purpose,
            expires_at=request.exp,
        )
        row = self._root(caller, txn, request)
        self._id_tokens.add(used)
        self._steps[row.id] = row
        self.note("intent", caller, row)
        return row, self._token(row)

    def _root(self, caller: Caller, txn: Txn, request: IntentRequest) -> StepRow:
        return StepRow(
            id=self._id("stp"),
            txn=txn,
            parent=None,
            initiator=caller.spiffe_id,
            jkt=caller.key(),
            performer=caller.spiffe_id,
            origin=txn.origin,
            tool=None,
            args=None,
            ceiling=Ceiling(tools=request.ceiling.tools, impact=request.ceiling.impact),
            chain=(),
            deferred=False,
            ref=self.ref(),
            state="accepted",
        )

    def _person(self, id_token: str, agent: str) -> tuple[str, str]:
        try:
            claims = verify(split(id_token), self.keys.persons.verify_key, typ=TYP_ID_TOKEN)
        except TokenRefused as bad:
            raise No("human_proof", f"not an ID token of the test's identity provider: {bad}") from None
        subject, used, until = claims.get("sub"), claims.get("jti"), claims.get("exp")
        if claims.get("aud") != agent or not isinstance(subject, str) or not isinstance(used, str):
            raise No("human_proof", "the ID token is for another agent")
        if not isinstance(until, int) or not self.clock.now() < until or used in self._id_tokens:
            raise No("human_proof", "the ID token has expired or has started an intent before")
        return f"person-{subject}", used

    def open(self, caller: Caller, request: OpenStepRequest) -> StepOpened:
        """A child of a live step that the caller performs."""
        parent = self._mine(request.parent, caller)
        self._live(parent, "accepted")
        if request.influence is not None and caller.spiffe_id not in self.registry.narrowing:
            raise No("influence_claimed", "this workload's word on what influenced a step is not taken")
        server = self.registry.server(request.server)
        is_asked = server.name == CLIENT
        tool = self.registry.act(request.tool) if is_asked else self.registry.tool(server, request.tool)
        self.registry.test(tool, "open")
        called = parent.txn.without_step
        if called is not None and parent.tool is None and tool.name != called:
            raise No("ceiling", f"this transaction is for one call of {called}")
        origin: Origin = "model" if caller.spiffe_id in self.registry.agents else "server"
        origin = min(origin, parent.origin, key=lambda each: _ORIGIN_RANK[each])
        if is_asked:
            asks.check(self.registry, caller.spiffe_id, parent)
        elif not parent.ceiling.allows(tool):
            raise No("ceiling", f"{tool.name} is not in the parent's ceiling")
        elif origin == "server" and RANK[tool.impact] > 0:
            raise No("policy", "a server starts low-impact steps only")
        try:
            args = args_digest(request.args)
        except DigestError as bad:
            raise No("invalid_arguments", str(bad)) from None
        performer = parent.initiator if is_asked else server.spiffe_id
        row = self._child(caller, parent, performer, tool, args, origin, request)
        self._steps[row.id] = row
        self.note("opened", caller, row)
        demand = self.registry.demand(tool)
        if demand is not None:
            approving.ask(row, demand, self._id("apr"), self.clock.now())
            self.note("asked", caller, row)
            approving.check(row, self.issuer, self.clock.now(), held=False)
        return self._opened(row)

    def _child(
        self,
        caller: Caller,
        parent: StepRow,
        performer: str,
        tool: Tool,
        args: str,
        origin: Origin,
        request: OpenStepRequest,
    ) -> StepRow:
        ceiling, step = parent.ceiling, self._id("stp")
        if is_act(tool.name):
            ceiling = asks.offered(self.registry, caller.spiffe_id, parent, request)
        elif request.ceiling is not None:
            ceiling = Ceiling(tools=request.ceiling.tools, impact=request.ceiling.impact)
            if not ceiling.within(parent.ceiling):
                raise No("ceiling", "the ceiling is not within the parent's")
        hop = HopSpec(
            step=step, initiator=caller.spiffe_id, performer=performer, origin=origin, tool=tool.name
        )
        return StepRow(
            id=step,
            txn=parent.txn,
            parent=parent,
            initiator=caller.spiffe_id,
            jkt=caller.key(),
            performer=performer,
            origin=origin,
            tool=tool,
            args=args,
            ceiling=ceiling,
            chain=(*parent.chain, hop),
            deferred=request.deferred,
            sealed=dict(request.args) if request.deferred else {},
            ref=self.ref(),
        )

    def token(self, caller: Caller, step: str, hold_s: float = 0.0) -> StepOpened:
        """A fresh token for the next round, for the initiator. hold_s: how long they said they would wait."""
        row = self._steps.get(step)
        if row is None or row.initiator != caller.spiffe_id or row.tool is None:
            raise No("not_found", "no such step")
        if caller.key() != row.jkt:
            raise No("invalid_proof", "the step was opened with another key")
        approving.check(row, self.issuer, self.clock.now(), held=hold_s > 0)
        self._live(row, "opened", "waiting")
        return self._opened(row)

    def _opened(self, row: StepRow) -> StepOpened:
        return StepOpened(
            step=row.id,
            txn=row.txn.id,
            token=self._token(row),
            expires_in=STEP_TOKEN_S,
            origin=row.origin,
            performer=row.performer,
            ref=row.ref,
        )

    def _token(self, row: StepRow) -> str:
        jti, now = self._id("tok"), int(self.clock.now())
        token = StepToken(
            issuer=self.issuer,
            trust_domain=TRUST_DOMAIN,
            txn=row.txn.id,
            step=row.id,
            subject=row.txn.requester or row.initiator,
            scope=row.tool.name if row.tool else "intent",
            initiator=row.initiator,
            initiator_jkt=row.jkt,
            performer=row.performer,
            origin=row.origin,
            tool=row.tool.name if row.tool else None,
            args=row.args,
            purpose=row.txn.purpose,
            intent_origin=row.txn.origin,
            proof=row.txn.proof,
            iat=now,
            exp=now + STEP_TOKEN_S,
            jti=jti,
            parent=row.parent.id if row.parent else None,
        )
        row.tokens.add(jti)
        return self.keys.step.sign(TYP_STEP_TOKEN, token.claims())

    def answer(self, tool: str | None, *, yes: bool) -> int:
        """A person's word on every step of this tool that waits; how many there were."""
        rows = [row for row in self._steps.values() if approving.waits(row) and _is_of(row, tool)]
        for row in rows:
            approving.answer(row, yes=yes)
            self.note("signed" if yes else "denied", Caller(spiffe_id="a person"), row)
        return len(rows)

    # --- what all verbs share

    def note(self, kind: str, caller: Caller, row: StepRow | None, *, grant: str | None = None) -> None:
        """Record what was done."""
        self.ledger.entries.append(
            Entry(
                kind=kind,
                ref=row.ref if row else self.ref(),
                caller=caller.spiffe_id,
                tool=row.tool.name if row and row.tool else None,
                step=row.id if row else None,
                txn=row.txn.id if row else None,
                grant=grant,
                origin=row.origin if row else None,
            )
        )

    def ref(self) -> str:
        """A new short name."""
        return self._letters(10)

    def _id(self, kind: str) -> str:
        return f"{kind}_100{self._letters(26)}"

    def _letters(self, count: int) -> str:
        return "".join(_ALPHABET[byte & 31] for byte in self._entropy.bytes(count))

    def _mine(self, step: str, caller: Caller) -> StepRow:
        """A step that the caller performs; of another's it is not even said that it exists. Raises No."""
        row = self._steps.get(step)
        if row is None or row.performer != caller.spiffe_id:
            raise No("not_found", "no such step")
        return row

    def _live(self, row: StepRow, *states: str) -> None:
        """Pass if nothing above has ended and the step is in one of `states`. Raises No."""
        for each in row.line():
            if not self.marks.isdisjoint((f"step:{each.id}", f"txn:{each.txn.id}")):
                raise No("revoked", "the step was revoked")
        if not self.clock.now() < row.txn.expires_at:
            raise No("expired", "the transaction has expired")
        if row.state in _ENDED:
            raise No(_ENDED[row.state], f"the step has ended ({row.state})")
        if row.state not in states:
            raise No("wrong_state", f"the step is {row.state}")


def _is_of(row: StepRow, tool: str | None) -> bool:
    name = row.tool.name if row.tool else ""
    return tool in (None, name, name.partition("/")[2])
