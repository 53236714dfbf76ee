"""For whoever hosts the model and is the MCP client.

async with Broker.from_env() as broker, Client("https://ledger.example/mcp") as client:
async with broker.intent(id_token, purpose="pay invoice 42", tools=["ledger/transfer"]) as intent:
intent.guard(client)
await client.call_tool("transfer", {"amount": 5})
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

from stepwrit import client
from stepwrit._approving import OnApproval, Patience
from stepwrit._hook import OnRefusal, SessionHook, hook
from stepwrit._hook_tasks import Known
from stepwrit._outgoing import OutgoingStep, open_outgoing
from stepwrit._verbs import IntentGranted, Subject
from stepwrit.errors import StepwritError
from stepwrit.intents import bound_nonce as bound_nonce  # noqa: PLC0414  where agents look for it
from stepwrit.lineage import acting
from stepwrit.wire import (
    TOKEN_TYPE_ID,
    TOKEN_TYPE_UNSIGNED,
    Budget,
    CeilingSpec,
    Impact,
    IntentRequest,
    Origin,
    Outcome,
    Proof,
)

_log = logging.getLogger("stepwrit.agent")
CLOSE_S: Final = 5.0
INTENT_S: Final = 900


class Intent:
    """A transaction's root, as the agent that started it holds it."""

    def __init__(self, broker: client.Broker, granted: IntentGranted) -> None:
        self._broker: Final = broker
        self._granted: Final = granted
        self._hooks: Final[list[SessionHook]] = []
        self._tasks: Final[Known] = OrderedDict()

    def __repr__(self) -> str:
        return f"Intent({self.step!r}, origin={self.origin!r})"

    @property
    def step(self) -> str:
        """The root step's id; opens nothing."""
        return self._granted.step

    @property
    def txn(self) -> str:
        """The transaction's id; opens nothing."""
        return self._granted.txn

    @property
    def ref(self) -> str:
        """What `stepwrit explain` takes."""
        return self._granted.ref

    @property
    def origin(self) -> Origin:
        """`human` for a person's intent, `server` for a trigger's."""
        return self._granted.origin

    @property
    def proof(self) -> Proof | None:
        """How the person proved it: `bound`, `presented`, or None for a trigger."""
        return self._granted.proof

    def guard(
        self,
        client: object,
        server: str | None = None,
        *,
        on_refusal: OnRefusal = "result",
        wait_for_approval: float = 0.0,
        on_approval: OnApproval | None = None,
        tasks: Collection[str] = (),
    ) -> None:
        """Make each tool call of an mcp `Client` or bare `ClientSession` a step, until the intent ends.

        server: the server's registry name, URL or SPIFFE ID; None reads the URL of a `Client` that was given
        one. on_refusal: `result` answers a refused call with an `isError` result (one line for the model,
        the refusal in `_meta["dev.stepwrit/refusal"]`); `raise` raises RefusedError. wait_for_approval:
        seconds that a call waits where a person must sign it first; on_approval is told the page to show to
        that person. A call that did not wait, or not long enough, is refused as `authorization_pending`;
        the same call again goes on with the same step. tasks: names of the tools that may run as background
        tasks, `*` for all; their steps are deferred, and requests about their tasks carry our proof.

        Raises:
            ConfigurationError: nobody says which server it is, or the session is guarded already.
        """

        async def opener(name: str, tool: str, args: dict[str, object]) -> OutgoingStep:
            return await self.open(
                name,
                tool,
                args,
                wait_for_approval=wait_for_approval,
                on_approval=on_approval,
                deferred=tool in tasks or "*" in tasks,
            )

        self._hooks.append(hook(client, server, opener, on_refusal, self._tasks))

    async def open(
        self,
        server: str,
        tool: str,
        args: dict[str, object] | None = None,
        *,
        wait_for_approval: float = 0.0,
        on_approval: OnApproval | None = None,
        influence: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> OutgoingStep:
        """Open a step, for hosts that make the call themselves: send `await step.meta()` as its `_meta`.

        Below the intent; in code that answers a server (a sampling callback, say) below that server's step.

        wait_for_approval, on_approval: as in `guard`. influence: ids of the only earlier steps whose results
        went into this call; from an agent whose word on it the registry takes (`narrows_influence`). None:
        all that this agent could have seen. deferred: its call may become a background task.

        Raises:
            ApprovalPendingError: a person must sign first; the same again goes on with the same step.
            RefusedError: the broker's no.
        """
        patience = Patience(seconds=wait_for_approval, on_approval=on_approval)
        act = acting(self.txn)
        parent = self.step if act is None else act.id
        return await open_outgoing(
            self._broker, parent, server, tool, args or {}, patience, influence, deferred=deferred
        )

    async def defer(
        self,
        tool: str,
        args: dict[str, object] | None = None,
        *,
        wait_for_approval: float = 0.0,
        on_approval: OnApproval | None = None,
    ) -> str:
        """Open a step for a job that outlives this intent's block. The answer is its id.

        tool: `server/tool`. The id is all that the job is to hold: it opens nothing by itself, and whoever
        performs the tool resumes it with that (`stepwrit.client.Broker.resumed`), before the end that the
        intent was given by its `ttl` or `exp`. An intent that is left by an exception ends its jobs.

        Raises:
            ApprovalPendingError: a person must sign first; its `approval.step` is the id.
            RefusedError: the broker's no.
        """
        server, _, name = tool.rpartition("/")
        patience = Patience(seconds=wait_for_approval, on_approval=on_approval)
        made = await open_outgoing(self._broker, self.step, server, name, args or {}, patience, deferred=True)
        return made.step

    def unguard(self) -> None:
        """Take all hooks off."""
        while self._hooks:
            self._hooks.pop().remove()


class Broker(client.Broker):
    """The broker, for agents and triggers."""

    @asynccontextmanager
    async def intent(
        self,
        id_token: str,
        *,
        purpose: str,
        tools: Sequence[str],
        ttl: float = INTENT_S,
        exp: int | None = None,
        impact: Impact = "high",
        budget: Budget | None = None,
    ) -> AsyncGenerator[Intent]:
        """A person's intent; closed on leaving, with all that hangs on it.

        tools: `server/tool` or `server/*`. ttl: seconds. exp: seconds since the epoch, instead of `ttl`,
        when the ID token's nonce binds it (see `bound_nonce`).

        Raises:
            RefusedError: the broker's no, e.g. `human_proof`.
        """
        request = IntentRequest(
            purpose=purpose,
            ceiling=CeilingSpec(tools=tuple(tools), impact=impact),
            exp=exp if exp is not None else int(self.now() + ttl),
            budget=budget or Budget(),
        )
        granted = await self.start_intent(Subject(token=id_token, kind=TOKEN_TYPE_ID), request)
        async with self._held(granted) as intent:
            yield intent

    @asynccontextmanager
    async def trigger_intent(
        self,
        *,
        purpose: str,
        tools: Sequence[str],
        ttl: float = INTENT_S,
        impact: Impact = "low",
        budget: Budget | None = None,
        cause: str | None = None,
    ) -> AsyncGenerator[Intent]:
        """The root that a registered trigger may start by itself; its origin is `server`.

        cause: the id of the step that made the event. Else as `intent`.
        """
        subject = json.dumps({"sub": await self.ready()})
        request = IntentRequest(
            purpose=purpose,
            ceiling=CeilingSpec(tools=tuple(tools), impact=impact),
            exp=int(self.now() + ttl),
            budget=budget or Budget(),
            cause=cause,
        )
        granted = await self.start_intent(Subject(token=subject, kind=TOKEN_TYPE_UNSIGNED), request)
        async with self._held(granted) as intent:
            yield intent

    @asynccontextmanager
    async def _held(self, granted: IntentGranted) -> AsyncGenerator[Intent]:
        intent, outcome = Intent(self, granted), _failed()
        try:
            yield intent
            outcome = "done"
        except anyio.get_cancelled_exc_class():
            outcome = "cancelled"
            raise
        finally:
            intent.unguard()
            await self._close_root(intent, outcome)

    async def _close_root(self, intent: Intent, outcome: Outcome) -> None:
        """The work is over whatever the broker says now; an intent that stays open runs out by itself."""
        with anyio.move_on_after(CLOSE_S, shield=True):
            try:
                await self.close_step(intent.step, outcome)
            except StepwritError as failed:
                _log.warning("intent %s was not closed: %s", intent.ref, failed)


def _failed() -> Outcome:
    return "failed"
