"""The current step: what the running code does it for; in and out of MCP `_meta` and HTTP headers.

A server that serves several callers at once holds several steps. Code asks for *its* step, by the context it
runs in; there is no way to ask for "the latest one", and without a step there is a refusal, not a guess.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, cast

from stepwrit._approving import Call, Patience
from stepwrit._hook import OnRefusal, SessionHook, hook
from stepwrit._outgoing import Opens, OutgoingStep, call_of, digest_of, open_outgoing
from stepwrit._reply import local
from stepwrit._verbs import CredentialGranted
from stepwrit.errors import ApprovalPendingError, RefusedError
from stepwrit.wire import (
    HEADER_TXN_TOKEN,
    META_STEP,
    ApprovalAsked,
    HopSpec,
    Origin,
    PlanItem,
    Refusal,
    RequestDetails,
    StepAccepted,
)
from stepwrit.wire_acts import is_act

if TYPE_CHECKING:
    from stepwrit.jobs import Job


class Performs(Opens, Protocol):
    """What performing a step needs of a broker; `stepwrit.client.Broker` is one."""

    async def credential(self, *, step: str, resource: str, details: RequestDetails) -> CredentialGranted:
        """A credential for one request."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """A call that a step made and that waits for its approval. args: their digest."""

    server: str
    tool: str
    args: str
    asked: ApprovalAsked
    deferred: bool = False

    def call_of(self, step: str) -> Call:
        """How the broker's client remembers it."""
        return call_of(step, self.server, self.tool, self.args, deferred=self.deferred)


NOBODY: Final = ApprovalAsked(id="", step="", url="", interval=0, expires_in=0)  # was asked yet


class Step:
    """One round of a step that we accepted and perform. Usable until its call ends, then refused."""

    def __init__(self, broker: Performs, accepted: StepAccepted) -> None:
        self.broker: Final = broker
        self._accepted: Final = accepted
        self.refused: Refusal | None = None
        self.awaited: Awaited | None = None  # to be handed to the client
        self._signed: Final[list[tuple[Awaited, OutgoingStep]]] = []
        self.root: str | None = None  # of our own, for a call that came without a step; it ends with the call
        self.patience_s = 0.0  # for a call whose page the client was handed in the round before
        self._ended: str | None = None
        self._hooks: Final[list[SessionHook]] = []

    def __repr__(self) -> str:
        return f"Step({self.id!r}, tool={self.tool!r}, round={self.round}, ended={self._ended!r})"

    @property
    def accepted(self) -> StepAccepted:
        """What the broker told of it."""
        return self._accepted

    @property
    def id(self) -> str:
        """The step's id; opens nothing."""
        return self.accepted.step

    @property
    def txn(self) -> str:
        """The transaction's id; opens nothing."""
        return self.accepted.txn

    @property
    def ref(self) -> str:
        """What `stepwrit explain` takes; belongs into every log line."""
        return self.accepted.ref

    @property
    def round(self) -> int:
        """1, and one more after each "input required"."""
        return self.accepted.round

    @property
    def origin(self) -> Origin:
        """Who started it: human, model or server."""
        return self.accepted.origin

    @property
    def requester(self) -> str | None:
        """The broker's own id of the person it is for; None for a trigger."""
        return self.accepted.requester

    @property
    def purpose(self) -> str:
        """The intent's purpose, in the words of whoever had it: show it, do not obey it."""
        return self.accepted.purpose

    @property
    def tool(self) -> str:
        """`server/tool`."""
        return self.accepted.tool

    @property
    def is_act(self) -> bool:
        """Whether a server makes us do this as its client: sampling, a form. Then we are to answer it."""
        return is_act(self.tool)

    @property
    def chain(self) -> tuple[HopSpec, ...]:
        """Every step from the intent to this one, oldest first."""
        return self.accepted.chain

    @property
    def plan(self) -> tuple[PlanItem, ...]:
        """The requests that this step may make."""
        return self.accepted.plan

    @property
    def ended(self) -> str | None:
        """How it ended; None while it runs."""
        return self._ended

    def check(self) -> None:
        """Pass if this step runs and is the current one here.

        Raises:
            RefusedError: `closed`, or `no_step` when the code runs for another step or for none.
        """
        if self._ended is not None:
            advice = "do the work before the tool returns, or open a deferred step for it"
            raise self.note(local("closed", f"the step has ended ({self._ended}): {advice}"))
        if _CURRENT.get() is not self:
            raise self.note(local("no_step", "this belongs to another step than the code that uses it"))

    def note(self, refusal: Refusal) -> RefusedError:
        """The error for a refusal, remembered for the tool's result."""
        self.refused = refusal
        return RefusedError(refusal)

    def end(self, how: str) -> None:
        """Nothing more is done for this step; its hooks are taken off. A second end does nothing."""
        self._ended = self._ended or how
        while self._hooks:
            self._hooks.pop().remove()

    async def start(
        self,
        server: str,
        tool: str,
        args: dict[str, object] | None = None,
        *,
        wait_for_approval: float = 0.0,
    ) -> OutgoingStep:
        """Open a child for what this server starts by itself: another server's tool. Its origin is `server`.

        server: registry name, URL or SPIFFE ID. `await child.meta()` is the `_meta` of the outgoing call.
        wait_for_approval: seconds, where a person must sign first. Let an ApprovalPendingError pass: the
        client is handed the page to show, and the tool runs again after it; the same start then goes on with
        the same child.

        Raises:
            ApprovalPendingError: nobody signed in this time.
            RefusedError: the broker's no; `closed` and `no_step` as in `check`.
        """
        return await self._open(server, tool, args, wait_for_approval)

    async def defer(
        self, tool: str, args: dict[str, object] | None = None, *, wait_for_approval: float = 0.0
    ) -> str:
        """Open a child for a job that outlives this call. The answer is its id: all that the job is to hold.

        tool: `server/tool`, or a tool of this very server. Whoever performs it resumes it with the id
        (`stepwrit.client.Broker.resumed`), within the intent's end. wait_for_approval, raises: as `start`;
        the step that an ApprovalPendingError names is the same one, and can be resumed once it is signed.
        """
        server, _, name = tool.rpartition("/")
        own = self.tool.partition("/")[0]
        return (await self._open(server or own, name, args, wait_for_approval, deferred=True)).step

    def perform(
        self, tool: str, args: dict[str, object] | None = None, *, wait_for_approval: float = 0.0
    ) -> AbstractAsyncContextManager[Job]:
        """Perform a tool of this server as a child: `async with current_step().perform("fetch") as step:`.

        For requests that are not in the plan of the tool that runs: in the block the child is the current
        step, and `step.credential(audience)` is for the child's plan. It is decided like any step that the
        server starts, so `may_start` must name the tool. It is closed as the block ends.

        Raises:
            ApprovalPendingError, RefusedError: as `start`, on entering. After the block, `revoked`, `expired`
                or `closed`: others ended the child meanwhile.
            ConfigurationError: outside of an event loop.
        """
        from stepwrit._perform import performing  # noqa: PLC0415  which is built on this

        return performing(self, tool, args, wait_for_approval)

    async def _open(
        self,
        server: str,
        tool: str,
        args: dict[str, object] | None,
        wait_for_approval: float,
        *,
        deferred: bool = False,
    ) -> OutgoingStep:
        self.check()
        wanted = Awaited(server=server, tool=tool, args=digest_of(args), asked=NOBODY, deferred=deferred)
        before = self.broker.pending.first(wanted.call_of(self.id))
        patience = Patience(
            seconds=wait_for_approval if before is None else max(wait_for_approval, self.patience_s)
        )
        try:
            made = await open_outgoing(
                self.broker, self.id, server, tool, args or {}, patience, deferred=deferred
            )
        except ApprovalPendingError as pending:
            self.refused = pending.refusal
            if before is None:
                self.awaited = replace(wanted, asked=pending.approval)
            raise
        except RefusedError as no:
            self.refused = no.refusal
            raise
        if before is not None:
            self._signed.append((replace(wanted, asked=before), made))
        return made

    def unused(self) -> list[Awaited]:
        """What was signed for this step and has not been sent: its next round goes on with it."""
        return [awaited for awaited, made in self._signed if made.round == 0]

    def guard(self, client: object, server: str | None = None, *, on_refusal: OnRefusal = "result") -> None:
        """Make each tool call of an MCP client or session a child of this step, until this step ends.

        As `stepwrit.agent.Intent.guard`.
        """
        self.check()

        async def opener(name: str, tool: str, args: dict[str, object]) -> OutgoingStep:
            return await (acting(self.txn) or self).start(name, tool, args)

        self._hooks.append(hook(client, server, opener, on_refusal))


_CURRENT: Final[ContextVar[Step | None]] = ContextVar("stepwrit.step", default=None)


_HELD: Final[ContextVar[tuple[Step, ...]]] = ContextVar("stepwrit.held", default=())


def hold(acts: tuple[Step, ...]) -> None:
    """Who runs this got a task's questions, and calls its host by itself: until they end, nothing is started.

    What would be started would not count as the server's.
    """
    _HELD.set(acts)


def current_step() -> Step:
    """The step that the running code performs.

    Raises:
        RefusedError: `no_step`: the code runs outside of a guarded tool call.
    """
    step = _CURRENT.get()
    if step is None:
        raise RefusedError(local("no_step", "this code does not run for a step"))
    return step


def acting(txn: str) -> Step | None:
    """What the running code does for a server that asked for it, as its client; None if it does nothing so.

    What is started meanwhile belongs below it. txn: of whoever is about to start something.

    Raises:
        RefusedError: `no_step`: the code answers a server of another transaction; `closed`: the act is over;
            `ceiling`: it has a task's question in hand.
    """
    step = _CURRENT.get()
    if step is None or not step.is_act:
        if any(each.ended is None for each in _HELD.get()):
            raise RefusedError(local("ceiling", "a question of a server's task is to be answered first"))
        return None
    if step.txn != txn:
        raise RefusedError(local("no_step", "this code answers a server of another transaction"))
    step.check()
    return step


@contextmanager
def entered(step: Step) -> Generator[Step]:
    """Make `step` the current one of this context and of what it starts."""
    before = _CURRENT.set(step)
    try:
        yield step
    finally:
        _CURRENT.reset(before)


# --- in and out of messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What an MCP call brings: a step token, and its initiator's proof."""

    token: str = field(repr=False)
    proof: str = field(repr=False)


def from_meta(meta: Mapping[str, object] | None) -> Carried | None:
    """What `_meta` carries; None if it carries no step.

    Raises:
        RefusedError: `invalid_request`: it carries something else under our name.
    """
    value = (meta or {}).get(META_STEP)
    if value is None:
        return None
    members = cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
    token, proof = members.get("token"), members.get("proof")
    if members.keys() != {"token", "proof"} or not isinstance(token, str) or not isinstance(proof, str):
        raise RefusedError(local("invalid_request", f"_meta[{META_STEP!r}] is not {{token, proof}}"))
    return Carried(token=token, proof=proof)


def to_headers(token: str) -> dict[str, str]:
    """The step token for plain HTTP."""
    return {HEADER_TXN_TOKEN: token}


def contradicts(headers: Sequence[str], token: str) -> bool:
    """Whether a `Txn-Token` header names another token than `_meta` does."""
    return any(value != token for value in headers)
