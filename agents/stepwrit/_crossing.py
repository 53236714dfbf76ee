"""A call of a tool that belongs to another trust domain's broker: over there, and kept alive at home.

Opened at home, granted, started over there as a root of its own, opened below it. At home its initiator
stands in for the foreign performer: it hears of a revocation there, and says how the call ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import anyio

from stepwrit._alive import Alive, StoppedError
from stepwrit._approving import Patience
from stepwrit._outgoing import Opens, OutgoingStep
from stepwrit._reply import local
from stepwrit._verbs import GrantMade, IntentGranted
from stepwrit.errors import ApprovalPendingError, RefusedError, StepwritError
from stepwrit.wire import HEARTBEAT_S, OpenStepRequest, Outcome, StepAccepted, StepOpened, StepStatus
from stepwrit.wire_chain import PeerBroker

CLOSE_S: Final = 5.0
_CODES: Final = frozenset({"revoked", "frozen", "expired", "closed"})
T = TypeVar("T")


class Crosses(Opens, Protocol):
    """What a crossing needs of a broker's client; `stepwrit.client.Broker` is one."""

    @property
    def alive(self) -> Alive:
        """The running steps of this client."""
        ...

    async def grant(self, step: str, issuer: str) -> GrantMade:
        """A grant of our step for another broker."""
        ...

    async def start_granted(self, grant: str) -> IntentGranted:
        """A root, for another broker's grant."""
        ...

    def beyond(self, peer: PeerBroker) -> Crosses:
        """The client of another broker, as the same workload with the same key."""
        ...

    async def close_step(self, step: str, outcome: Outcome) -> StepStatus:
        """The step has ended."""
        ...


class Abroad:
    """A step of ours at home, where it runs, and the root that it is over there."""

    def __init__(self, home: Crosses, opened: StepOpened, there: Crosses) -> None:
        self._home: Final = home
        self._there: Final = there
        self.root = ""
        self.accepted: Final = StepAccepted(
            step=opened.step,
            txn=opened.txn,
            ref=opened.ref,
            round=1,
            origin=opened.origin,
            purpose="",
            tool="",
            chain=(),
            plan=(),
            heartbeat_s=HEARTBEAT_S,
            ends_at=0.0,
        )

    def end(self, how: str) -> None:
        """Others ended it at home; whoever runs the call is told by `beating`."""

    async def beating(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run the call as the step at home: one that is ended there ends the call.

        Raises:
            RefusedError: the step was ended at home while the call ran.
        """
        try:
            return await self._home.alive.beside(self, call)
        except StoppedError as stopped:
            code = stopped.how if stopped.how in _CODES else "closed"
            reason = f"the step was ended at home while it ran abroad: {stopped.how}"
            raise RefusedError(local(code, reason, ref=self.accepted.ref)) from None

    async def finished(self, outcome: Outcome) -> None:
        """Both ends are closed, whatever the brokers say now: what stays open runs out by itself."""
        with anyio.move_on_after(CLOSE_S, shield=True):
            if self.root:
                await _close(self._there, self.root, outcome)
            await _close(self._home, self.accepted.step, outcome)


async def cross(
    home: Crosses,
    opened: StepOpened,
    peer: PeerBroker,
    tool: str,
    args: dict[str, object],
    digest: str,
    patience: Patience,
) -> OutgoingStep:
    """Take an opened step to its tool's own broker: the step there, which knows its two ends.

    A signature that is needed over there is waited for here, for `patience.seconds` at most.

    Raises:
        RefusedError: a no of either broker; both ends are closed then.
    """
    there = home.beyond(peer)
    abroad = Abroad(home, opened, there)
    try:
        granted = await home.grant(opened.step, peer.issuer)
        abroad.root = (await there.start_granted(granted.access_token)).step
        request = OpenStepRequest(parent=abroad.root, server=opened.performer, tool=tool, args=args)
        far = await abroad.beating(lambda: there.open(request, wait_for_approval=patience.seconds))
    except BaseException as failed:
        await abroad.finished("failed")
        if isinstance(failed, ApprovalPendingError):
            raise RefusedError(failed.refusal) from failed  # nobody goes on with it: it is closed
        raise
    return OutgoingStep(there, far, digest, abroad=abroad)


async def _close(broker: Crosses, step: str, outcome: Outcome) -> None:
    with suppress(StepwritError):
        await broker.close_step(step, outcome)
