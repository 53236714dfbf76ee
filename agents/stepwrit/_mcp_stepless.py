"""A call came without a step: where the registry says so, the server starts a transaction of its own for it.

Its root has one child, the call itself, which we open, accept and run; both end with the call. Nobody is
behind it, and nothing ties a later round to it: each round is a call of its own.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from typing import Final

import anyio

from stepwrit._outgoing import digest_of, open_outgoing
from stepwrit._reply import local
from stepwrit._verbs import Subject
from stepwrit.client import Broker
from stepwrit.errors import RefusedError, StepwritError
from stepwrit.lineage import Step, from_meta
from stepwrit.wire import TOKEN_TYPE_UNSIGNED, AcceptRequest, CeilingSpec, IntentRequest, Outcome, Refusal

_log = logging.getLogger("stepwrit.mcp")
NO_STEP: Final = "the call carries no step token: the caller must open a step"
CLOSE_S: Final = 5.0
INTENT_S: Final = 900
FORGET_S: Final = 60.0
REMEMBERED: Final = 256  # whoever makes up names of tools has the broker asked so often a minute, and no more


class Stepless:
    """What a server knows of its tools that may be called without a step: the broker's no, for a minute.

    Names that nobody serves are asked for only so often; that keeps nobody from the tools that there are.
    """

    def __init__(self) -> None:
        self._allowed: Final[set[str]] = set()  # as many as the registry says `root` of
        self._refused: Final[OrderedDict[str, tuple[float, Refusal]]] = OrderedDict()

    async def accept(
        self, broker: Broker, tool: str, args: dict[str, object] | None, schema: str | None = None
    ) -> Step:
        """The accepted step of a call that carried none. schema: the digest of the tool's as served here.

        Raises:
            RefusedError: `no_step` where the registry does not say `root`, or any other no.
        """
        self._check(tool, broker.now(), is_served=schema is not None or tool in self._allowed)
        digest_of(args)  # nothing is started for what is not JSON of one meaning
        try:
            step = await _started(broker, tool, args, schema)
        except RefusedError as no:
            if no.code == "no_step":
                self._allowed.discard(tool)
                self._refused[tool] = broker.now() + FORGET_S, no.refusal
            raise
        self._allowed.add(tool)
        return step

    def _check(self, tool: str, now: float, *, is_served: bool) -> None:
        while self._refused and next(iter(self._refused.values()))[0] <= now:
            self._refused.popitem(last=False)
        if tool in self._refused:
            raise RefusedError(self._refused[tool][1])
        if len(self._refused) >= REMEMBERED and not is_served:
            raise RefusedError(local("no_step", NO_STEP))


async def _started(broker: Broker, tool: str, args: dict[str, object] | None, schema: str | None) -> Step:
    subject = Subject(token=json.dumps({"sub": await broker.ready()}), kind=TOKEN_TYPE_UNSIGNED)
    request = IntentRequest(
        purpose="a call without a step",
        ceiling=CeilingSpec(tools=(), impact="low"),
        exp=int(broker.now() + INTENT_S),
        without_step=tool,
    )
    root = await broker.start_intent(subject, request)
    is_accepted = False
    try:
        step = await _accepted(broker, root.step, root.tool or f"/{tool}", args, schema)
        is_accepted = True
    finally:
        if not is_accepted:
            await close_root(broker, root.step, "failed")
    step.root = root.step
    return step


async def _accepted(
    broker: Broker, root: str, tool: str, args: dict[str, object] | None, schema: str | None
) -> Step:
    server, _, name = tool.partition("/")
    made = await open_outgoing(broker, root, server, name, args or {})
    carried = from_meta(await made.meta())
    if carried is None:
        raise RefusedError(local("unavailable", "the broker gave no step token"))
    request = AcceptRequest(token=carried.token, proof=carried.proof, args=digest_of(args), schema=schema)
    return Step(broker, await broker.accept(made.step, request))


async def close_root(broker: Broker, root: str, outcome: Outcome) -> None:
    """Also while being cancelled. A root that stays open runs out by itself."""
    with anyio.move_on_after(CLOSE_S, shield=True):
        try:
            await broker.close_step(root, outcome)
        except StepwritError as failed:
            _log.warning("the root of a call without a step was not closed: %s", failed)
