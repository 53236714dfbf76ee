"""What a server asks of a guarded mcp session: verified, done as the server's own step, or refused aloud.

On 2026-07-28 a result asks, and the proofs of all it asks for are in its `_meta`; on 2025-11-25 the server
asks in the middle of a call, and the proof is in the request's. Both reach the host's callbacks through
`dispatch_input_request`, and there only what was accepted passes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mcp import MCPError, UrlElicitationRequiredError
from mcp_types import ElicitRequest, ElicitRequestURLParams, ErrorData, InputRequiredResult

from stepwrit import _acts as acts
from stepwrit import telemetry
from stepwrit._acts import Ask
from stepwrit._approving import is_page
from stepwrit._hook_told import Told
from stepwrit._mcp_inputs import ask_of, refused_error
from stepwrit._outgoing import OutgoingStep
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.errors import RefusedError
from stepwrit.lineage import Step
from stepwrit.wire import META_STEP
from stepwrit.wire_acts import URL

REMEMBERED: Final = 256  # questions that no host ever answers
MOST: Final = 32  # questions of one result
UNKNOWN: Final = "something"
UNPROVEN: Final = ("get_prompt", "read_resource")  # no call of a tool: nothing there is a step


@dataclass(slots=True, kw_only=True)
class Asked:
    """One question of a result. act: None for a page of our own broker. said: why its answer is not sent."""

    request: object  # held, so that its identity stays its own
    call: OutgoingStep
    act: Step | None
    is_open: bool = True
    said: RefusedError | None = None


@dataclass(slots=True)
class Acts:
    """What one session's server asks for. running: our calls that are under way there."""

    session: Any
    running: dict[str, OutgoingStep] = field(default_factory=dict[str, OutgoingStep])
    refused: dict[str, RefusedError] = field(default_factory=dict[str, RefusedError])
    ready: OrderedDict[int, Asked] = field(default_factory=OrderedDict[int, Asked])
    _original: Any = None
    _told: Told = field(init=False)

    def __post_init__(self) -> None:
        """What the server tells belongs to the same calls."""
        self._told = Told(self.session)

    def install(self) -> None:
        """Take the place of what a session answers by."""
        self._original = getattr(self.session, "dispatch_input_request", None)
        if self._original is None:
            return
        self.session.dispatch_input_request = self.dispatch
        for name in UNPROVEN:
            setattr(self.session, name, _without_questions(getattr(self.session, name)))
        self._told.install()

    def remove(self) -> None:
        """Give the place back."""
        if self._original is not None:
            for name in ("dispatch_input_request", *UNPROVEN):
                delattr(self.session, name)
            self._told.remove()

    @contextmanager
    def within(self, call: OutgoingStep) -> Generator[None]:
        """A call under way: what its server asks for meanwhile may be a part of it.

        Raises:
            RefusedError: it asked for what it may not: the call's answer is not believed either.
        """
        self.running[call.step] = call
        self._told.began(call)
        failed: MCPError | None = None
        try:
            yield
        except MCPError as error:
            failed = error
        finally:
            self.running.pop(call.step, None)
            no = self.refused.pop(call.step, None)
        if no is not None:
            raise no
        if failed is not None:
            raise failed

    # --- 2026-07-28: a result asks

    async def arrived(self, call: OutgoingStep, result: InputRequiredResult) -> None:
        """Accept every step that the result asks for, or none. Raises RefusedError."""
        requests: Mapping[str, object] = result.input_requests or {}
        asked: dict[str, Ask] = {}
        try:
            if len(requests) > MOST:
                raise RefusedError(
                    local("invalid_request", f"the server asks for more than {MOST} things at once")
                )
            proofs = acts.proofs_in(cast("Mapping[str, object] | None", result.meta))
            for key, request in requests.items():
                ask = _asked(request)
                if key in proofs or not await _is_own_page(call, request):
                    asked[key] = ask
            taken = await acts.take_all(_broker(call), asked, proofs, {call.step})
        except RefusedError as no:
            what = ", ".join(sorted({each.act for each in asked.values()})) or UNKNOWN
            await acts.refused(_broker(call), no.refusal, what, [call.step])
            raise
        for key, request in requests.items():
            self._keep(Asked(request=request, call=call, act=taken.get(key)))

    def _keep(self, asked: Asked) -> None:
        self.ready[id(asked.request)] = asked
        while len(self.ready) > REMEMBERED:
            self.ready.popitem(last=False)

    def of(self, call: OutgoingStep) -> tuple[Step, ...]:
        """The accepted acts of a call that nobody has answered yet."""
        return tuple(each.act for each in self.ready.values() if each.call is call and each.act is not None)

    async def answered(self, call: OutgoingStep) -> None:
        """The next round of a call: what the host answered by hand has ended too.

        Raises:
            RefusedError: one of the acts was ended by somebody else: no answer is sent.
        """
        mine = [each for each in self.ready.values() if each.call is call]
        for each in mine:
            del self.ready[id(each.request)]
        for each in mine:
            if each.said is not None:
                raise each.said
            if each.is_open and each.act is not None:
                await acts.confirm(_broker(call), each.act)
                await acts.end(_broker(call), each.act, "done")

    # --- both: a question reaches the host

    async def dispatch(self, ctx: Any, request: Any) -> Any:
        """`ClientSession.dispatch_input_request`, for what was accepted; a refusal is told as an error."""
        known = self.ready.get(id(request))
        if known is not None and known.act is None:
            return await self._original(ctx, request)
        try:
            if known is not None:
                return await self._again(known, ctx)
            call, act = await self._taken(ctx, request)
            return await self._perform(call, act, ctx, request)
        except RefusedError as no:
            return refused_error(no.refusal)

    async def _again(self, known: Asked, ctx: Any) -> Any:
        """Of a result: accepted already, and answered once."""
        act = cast("Step", known.act)
        if not known.is_open:
            raise RefusedError(local("replay", "this was answered before", ref=act.ref))
        known.is_open = False
        try:
            return await self._perform(known.call, act, ctx, known.request)
        except RefusedError as no:
            known.said = no
            raise

    async def _taken(self, ctx: Any, request: object) -> tuple[OutgoingStep, Step]:
        """Of 2025-11-25: asked in the middle of a call, which the step's token names."""
        calls, act = dict(self.running), UNKNOWN
        if not calls:
            telemetry.act_refused(UNKNOWN, "no_step")
            raise RefusedError(local("no_step", "the server asks outside of every call that is guarded here"))
        broker = _broker(next(iter(calls.values())))
        try:
            ask = _asked(request)
            act = ask.act
            step = await acts.take(broker, ask, (ctx.meta or {}).get(META_STEP), calls)
        except RefusedError as no:
            await acts.refused(broker, no.refusal, act, list(calls))
            if no.code in acts.DISHONEST:
                self.refused.update(dict.fromkeys(calls.keys() & self.running.keys(), no))
            raise
        return calls.get(step.chain[-2].step) or next(iter(calls.values())), step

    async def _perform(self, call: OutgoingStep, act: Step, ctx: Any, request: Any) -> Any:
        name = act.tool.partition("/")[2]
        try:
            said = await acts.perform(_broker(call), act, lambda: self._original(ctx, request), _could_not)
        except RefusedError as no:
            telemetry.act_refused(name, no.code)
            raise
        telemetry.act_done(name)
        return said

    # --- 2025-11-25: an error asks that a person opens pages, and the host shows them

    async def pages(self, call: OutgoingStep, error: MCPError) -> None:
        """Pass pages of our own broker, and proven steps of the server. Raises RefusedError."""
        pages = {key: each for key, each in _pages_in(error).items() if not await _is_own_page(call, each)}
        try:
            data = cast("Mapping[str, object]", error.error.data) if pages else {}
            proofs = acts.proofs_in(cast("Mapping[str, object] | None", data.get("_meta")))
            asked = {key: _asked(each) for key, each in pages.items()}
            taken = await acts.take_all(_broker(call), asked, proofs, {call.step})
        except RefusedError as no:
            await acts.refused(_broker(call), no.refusal, URL, [call.step])
            raise
        for act in taken.values():  # whoever made the call shows the page; that it can is what was asked for
            await acts.end(_broker(call), act, "done")
            telemetry.act_done(URL)


def _without_questions(original: Any) -> Any:
    """Of a prompt or resource: an answer, or a refusal where the server asks for something first."""

    async def ask(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        if isinstance(result, InputRequiredResult):
            telemetry.act_refused(UNKNOWN, "no_step")
            raise RefusedError(local("no_step", "the server asks for something outside of a guarded call"))
        return result

    return ask


def _asked(request: object) -> Ask:
    ask = ask_of(request)
    if ask is None:
        raise RefusedError(local("not_yet_supported", "the server asks for what this client does not know"))
    return ask


def _broker(call: OutgoingStep) -> Broker:
    return cast("Broker", call.broker)


def _could_not(answer: object) -> bool:
    return isinstance(answer, ErrorData)


async def _is_own_page(call: OutgoingStep, request: object) -> bool:
    """A page of our own broker is no act of the server: it opens nothing, and approves nothing by itself."""
    if not isinstance(request, ElicitRequest) or not isinstance(request.params, ElicitRequestURLParams):
        return False
    return is_page(await _broker(call).known_issuer(), request.params.url)


def _pages_in(error: MCPError) -> dict[str, object]:
    """The pages that an error asks to open, by their ids; what cannot be read is none of ours."""
    try:
        pages = UrlElicitationRequiredError.from_error(error.error).elicitations
    except (ValueError, TypeError, AttributeError):
        pages = []
    if not pages:
        pages = [ElicitRequestURLParams(message="", url="")]
    return {each.elicitation_id or str(at): ElicitRequest(params=each) for at, each in enumerate(pages)}
