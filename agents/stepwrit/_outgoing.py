"""A step that we opened for somebody else to perform: what travels with each round of its call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from stepwrit._approving import Call, OnApproval, Patience, Pending
from stepwrit._reply import local
from stepwrit.digest import DigestError, args_digest
from stepwrit.dpop import make_step_proof
from stepwrit.errors import ApprovalPendingError, RefusedError, UnavailableError
from stepwrit.jws import SigningKey
from stepwrit.wire import (
    HEADER_TXN_TOKEN,
    META_STEP,
    ApprovalAsked,
    OpenStepRequest,
    Origin,
    Outcome,
    StepOpened,
)
from stepwrit.wire_tasks import ROUND

if TYPE_CHECKING:
    from stepwrit._crossing import Abroad, Crosses

T = TypeVar("T")

MARGIN_S: Final = 5.0  # a token this close to its end is not sent any more


class Opens(Protocol):
    """What opening a step needs of a broker; `stepwrit.client.Broker` is one."""

    @property
    def key(self) -> SigningKey:
        """The key that the step token is bound to."""
        ...

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def random_id(self) -> str:
        """Fresh randomness as text."""
        ...

    @property
    def pending(self) -> Pending:
        """Calls whose approval is still to come."""
        ...

    async def open(
        self,
        request: OpenStepRequest,
        *,
        wait_for_approval: float = 0.0,
        on_approval: OnApproval | None = None,
    ) -> StepOpened:
        """Open a child."""
        ...

    async def approved(self, asked: ApprovalAsked, seconds: float = 0.0) -> StepOpened:
        """A step that was asked for before, once it is signed."""
        ...

    async def step_token(self, step: str) -> StepOpened:
        """A fresh token of the same step."""
        ...


class OutgoingStep:
    """One call of a tool, in one or more rounds, each with its own token and proof."""

    def __init__(self, broker: Opens, opened: StepOpened, args: str, *, abroad: Abroad | None = None) -> None:
        self._abroad: Final = abroad
        self._broker: Final = broker
        self._args: Final = args
        self._opened = opened
        self._usable_until = broker.now() + opened.expires_in - MARGIN_S
        self._fresh = True
        self._last: dict[str, object] = {}
        self.round = 0

    def __repr__(self) -> str:
        return f"OutgoingStep({self.step!r}, round={self.round})"

    @property
    def broker(self) -> Opens:
        """Through whom it was opened."""
        return self._broker

    @property
    def step(self) -> str:
        """The step's id; opens nothing."""
        return self._opened.step

    @property
    def txn(self) -> str:
        """The transaction's id; opens nothing."""
        return self._opened.txn

    @property
    def ref(self) -> str:
        """What `stepwrit explain` takes."""
        return self._opened.ref

    @property
    def origin(self) -> Origin:
        """Who started it, as the broker derived it."""
        return self._opened.origin

    @property
    def performer(self) -> str:
        """Who may perform it: a SPIFFE ID, or the registry's pattern."""
        return self._opened.performer

    async def meta(self) -> dict[str, object]:
        """`_meta` of the next round: a fresh step token and our proof over it, the arguments and the round.

        Raises:
            RefusedError: no further token; UnavailableError when nobody could say.
        """
        token = await self._token()
        self.round += 1
        proof = make_step_proof(
            self._broker.key,
            token=token,
            args=self._args,
            round=self.round,
            now=self._broker.now(),
            jti=self._broker.random_id(),
        )
        self._last = {META_STEP: {"token": token, "proof": proof}}
        return dict(self._last)

    async def kept(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make the call. Of a tool of another trust domain's broker: beside heartbeats at home.

        Raises:
            RefusedError: the step was revoked at home meanwhile.
        """
        return await (call() if self._abroad is None else self._abroad.beating(call))

    async def finished(self, outcome: Outcome = "done") -> None:
        """The call is over. Only for a tool of another trust domain's broker there is something to do: its
        performer closes the step over there, and nobody but us the one at home.
        """
        if self._abroad is not None:
            await self._abroad.finished(outcome)

    def same_meta(self) -> dict[str, object]:
        """`_meta` of the round that is already under way, for a resend of a call that nobody saw."""
        return dict(self._last)

    def task_proof(self, about: str) -> str:
        """Our proof over one request about the task that this call became. about: `wire_tasks.about_task`."""
        return make_step_proof(
            self._broker.key,
            token=self.step,
            args=about,
            round=ROUND,
            now=self._broker.now(),
            jti=self._broker.random_id(),
        )

    async def headers(self) -> dict[str, str]:
        """`Txn-Token` for plain HTTP; MCP calls carry `meta()` and not this."""
        return {HEADER_TXN_TOKEN: await self._token()}

    async def _token(self) -> str:
        if not self._fresh or self._broker.now() >= self._usable_until:
            self._opened = await self._broker.step_token(self.step)
            self._usable_until = self._broker.now() + self._opened.expires_in - MARGIN_S
        self._fresh = False
        return self._opened.token


async def open_outgoing(
    broker: Opens,
    parent: str,
    server: str,
    tool: str,
    args: dict[str, object],
    patience: Patience | None = None,
    influence: Sequence[str] | None = None,
    *,
    deferred: bool = False,
) -> OutgoingStep:
    """Open a child of `parent`, or go on with the one that this very call asked for before.

    influence: ids of the only steps whose results this one came of. deferred: it is resumed later, by its id.

    Raises:
        ApprovalPendingError: a person must sign; the same call again goes on with the same step.
        RefusedError: the broker's no, or `invalid_arguments`: they are not JSON of one meaning.
    """
    digest, patience = digest_of(args), patience or Patience()
    call = call_of(parent, server, tool, digest, deferred=deferred)
    asked = broker.pending.take(call)
    if asked is not None:
        return OutgoingStep(broker, await _again(broker, call, asked, patience), digest)
    request = OpenStepRequest(
        parent=parent,
        server=server,
        tool=tool,
        args=args,
        deferred=deferred,
        influence=None if influence is None else tuple(influence),
    )
    try:
        opened = await broker.open(
            request, wait_for_approval=patience.seconds, on_approval=patience.on_approval
        )
    except ApprovalPendingError as pending:
        broker.pending.put(call, pending.approval)
        raise
    if opened.peer is None:
        return OutgoingStep(broker, opened, digest)
    from stepwrit._crossing import cross  # noqa: PLC0415  it is made of what is here

    return await cross(cast("Crosses", broker), opened, opened.peer, tool, args, digest, patience)


def call_of(parent: str, server: str, tool: str, digest: str, *, deferred: bool) -> Call:
    """How the broker's client remembers a call: one that is deferred is another one."""
    return parent, server, f"{tool} deferred" if deferred else tool, digest


async def _again(broker: Opens, call: Call, asked: ApprovalAsked, patience: Patience) -> StepOpened:
    """Go on with what was asked for; until there is a yes or a no it stays remembered."""
    is_over = False
    try:
        opened = await broker.approved(asked, patience.seconds)
        is_over = True
    except RefusedError as no:
        is_over = not isinstance(no, ApprovalPendingError | UnavailableError)
        raise
    finally:
        if not is_over:
            broker.pending.put(call, asked)
    return opened


def digest_of(args: dict[str, object] | None) -> str:
    """The arguments' digest. Raises RefusedError (`invalid_arguments`)."""
    try:
        return args_digest(args)
    except DigestError as bad:
        raise RefusedError(local("invalid_arguments", str(bad))) from None
