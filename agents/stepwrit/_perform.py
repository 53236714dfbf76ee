"""A tool of one's own, performed in the middle of another: its plan instead of the caller's, for a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Final

from stepwrit import jobs
from stepwrit._outgoing import digest_of
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.errors import ConfigurationError, RefusedError
from stepwrit.lineage import Step, from_meta
from stepwrit.wire import AcceptRequest, Refusal
from stepwrit.wire_deferred import StepResumed


class Own(jobs.Job):
    """A child that its opener performs itself. A refusal of it is the answer of the call it is a part of."""

    def __init__(self, broker: Broker, accepted: StepResumed, parent: Step) -> None:
        super().__init__(broker, accepted)
        self._parent: Final = parent

    def note(self, refusal: Refusal) -> RefusedError:
        """Also at the parent."""
        self._parent.note(refusal)
        return super().note(refusal)


@asynccontextmanager
async def performing(
    parent: Step, tool: str, args: dict[str, object] | None, wait_for_approval: float
) -> AsyncGenerator[jobs.Job]:
    """As `stepwrit.lineage.Step.perform`."""
    broker, own = parent.broker, parent.tool.partition("/")[0]
    if not isinstance(broker, Broker):
        raise ConfigurationError("perform works in event loops, on stepwrit.client.Broker")
    made = await parent.start(own, tool, args, wait_for_approval=wait_for_approval)
    carried = from_meta(await made.meta())
    if carried is None:
        raise RefusedError(local("unavailable", "the broker gave no step token"))
    request = AcceptRequest(token=carried.token, proof=carried.proof, args=digest_of(args), round=made.round)
    accepted = await broker.accept(made.step, request)
    members = {each.name: getattr(accepted, each.name) for each in fields(accepted)}
    own_step = Own(broker, StepResumed(**members, args=args or {}), parent)
    try:
        async with jobs.alive(broker, own_step) as child:
            yield child
    except RefusedError as no:
        parent.note(no.refusal)
        raise
