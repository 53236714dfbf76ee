"""Notifications by which a server makes its client act: proven like a question, but nobody answers them.

The server's step is decided and recorded before the notification leaves, and may have ended with its call
when that arrives; so the client verifies it by its token and proof, once, and accepts nothing. A handler
hears of it and starts nothing: what it calls is refused. Progress, log messages and the like pass. What a
host listens to by itself (`Client.listen`) goes past this.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, cast

from stepwrit import _acts as acts
from stepwrit import telemetry
from stepwrit._acts import Ask
from stepwrit._mcp_inputs import told_of
from stepwrit._outgoing import OutgoingStep
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.errors import RefusedError
from stepwrit.lineage import Step, entered
from stepwrit.tokens import StepToken
from stepwrit.wire import HEARTBEAT_S, META_STEP, StepAccepted
from stepwrit.wire_acts import NOTIFICATION

REMEMBERED: Final = 256
OVER: Final = "a notification starts nothing"


@dataclass(slots=True)
class Told:
    """What one session's server tells. calls: ours there, also some that are over. seen: steps, once each."""

    session: Any
    calls: OrderedDict[str, OutgoingStep] = field(default_factory=OrderedDict[str, OutgoingStep])
    seen: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    _original: Any = None

    def install(self) -> None:
        """Take the place of the host's handler; mcp offers no public way to it."""
        self._original = getattr(self.session, "_message_handler", None)
        if self._original is not None:
            self.session._message_handler = self.handle

    def remove(self) -> None:
        """Give the place back."""
        if self._original is not None:
            self.session._message_handler = self._original

    def began(self, call: OutgoingStep) -> None:
        """A call that such a notification may be a part of."""
        self.calls[call.step] = call
        _at_most(self.calls)

    async def handle(self, message: Any) -> None:
        """The host's handler gets what is proven; in place of anything else the refusal, as an exception."""
        try:
            ask = told_of(message)
            act = None if ask is None else await self._proven(message, ask)
        except RefusedError as no:
            telemetry.act_refused(NOTIFICATION, no.code)
            await self._original(no)
            return
        if act is None:
            await self._original(message)
            return
        telemetry.act_done(NOTIFICATION)
        with entered(act):
            await self._original(message)

    async def _proven(self, message: Any, ask: Ask) -> Step:
        if not self.calls:
            raise RefusedError(local("no_step", "the server tells of a change outside of every guarded call"))
        broker = cast("Broker", next(iter(self.calls.values())).broker)
        meta = (message.params.meta if message.params else None) or {}
        claims = await acts.look_at(broker, ask, meta.get(META_STEP), self.calls)
        if claims.step in self.seen:
            raise RefusedError(local("replay", "this was told before"))
        self.seen[claims.step] = None
        _at_most(self.seen)
        return _ended(broker, claims)


def _ended(broker: Broker, claims: StepToken) -> Step:
    """What the handler's code runs for: a step below which nothing can be started."""
    step = Step(
        broker,
        StepAccepted(
            step=claims.step,
            txn=claims.txn,
            ref="",
            round=1,
            origin=claims.origin,
            purpose=claims.purpose,
            tool=claims.tool or "",
            chain=(),
            plan=(),
            heartbeat_s=HEARTBEAT_S,
            ends_at=claims.exp,
        ),
    )
    step.end(OVER)
    return step


def _at_most(remembered: OrderedDict[str, Any]) -> None:
    while len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
