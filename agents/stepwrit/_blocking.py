"""What is written for an event loop, run in a thread that has none: nothing in it ever waits for a loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

from stepwrit._approving import OnApproval, Pending
from stepwrit._verbs import CredentialGranted
from stepwrit.errors import ApprovalPendingError
from stepwrit.jws import SigningKey
from stepwrit.wire import ApprovalAsked, OpenStepRequest, RequestDetails, StepOpened

T = TypeVar("T")


class Blocks(Protocol):
    """What is asked of a broker that blocks; `stepwrit.client.SyncBroker` is one."""

    @property
    def key(self) -> SigningKey: ...
    @property
    def pending(self) -> Pending: ...
    def now(self) -> float: ...
    def random_id(self) -> str: ...
    def open(self, request: OpenStepRequest) -> StepOpened: ...
    def approved(self, asked: ApprovalAsked, seconds: float = 0.0) -> StepOpened: ...
    def step_token(self, step: str) -> StepOpened: ...
    def credential(self, *, step: str, resource: str, details: RequestDetails) -> CredentialGranted: ...


class Blocking:
    """A `SyncBroker` with the verbs of a `Broker`, for what performs a step: each has its answer at once."""

    def __init__(self, broker: Blocks) -> None:
        self._broker: Final = broker

    @property
    def key(self) -> SigningKey:
        """The key that proofs are made with."""
        return self._broker.key

    @property
    def pending(self) -> Pending:
        """Calls whose approval is still to come."""
        return self._broker.pending

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._broker.now()

    def random_id(self) -> str:
        """Fresh randomness as text."""
        return self._broker.random_id()

    async def open(
        self,
        request: OpenStepRequest,
        *,
        wait_for_approval: float = 0.0,
        on_approval: OnApproval | None = None,
    ) -> StepOpened:
        """Open a child."""
        try:
            return self._broker.open(request)
        except ApprovalPendingError as pending:
            if wait_for_approval <= 0:
                raise
            asked = pending.approval
        if on_approval is not None:
            await on_approval(asked)
        return self._broker.approved(asked, wait_for_approval)

    async def approved(self, asked: ApprovalAsked, seconds: float = 0.0) -> StepOpened:
        """A step that was asked for before, once it is signed."""
        return self._broker.approved(asked, seconds)

    async def step_token(self, step: str) -> StepOpened:
        """A fresh token of the same step."""
        return self._broker.step_token(step)

    async def credential(self, *, step: str, resource: str, details: RequestDetails) -> CredentialGranted:
        """A credential for one request."""
        return self._broker.credential(step=step, resource=resource, details=details)


def now(work: Coroutine[Any, Any, T]) -> T:
    """The answer of what waits for nothing.

    Raises:
        RuntimeError: it does wait for something.
    """
    try:
        work.send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    work.close()
    raise RuntimeError("this needs an event loop")
