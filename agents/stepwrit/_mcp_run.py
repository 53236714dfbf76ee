"""An accepted step's call: run the body, keep the step alive, end it as the body ended."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import anyio
from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import (
    URL_ELICITATION_REQUIRED,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    TextContent,
)

from stepwrit._alive import Sleep, StoppedError
from stepwrit._mcp_approval import MODERN, handed
from stepwrit._mcp_inputs import refused_result
from stepwrit._mcp_session import guarded, pages, proven
from stepwrit._mcp_state import keep
from stepwrit._mcp_stepless import close_root
from stepwrit._reply import local
from stepwrit.client import Broker
from stepwrit.errors import IdentityUnavailable, RefusedError, StepwritError
from stepwrit.lineage import Step, entered
from stepwrit.wire import META_REF, META_REFUSAL, Outcome, Refusal

_log = logging.getLogger("stepwrit.mcp")
CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How bodies run. sleep: seconds, between heartbeats. stops: cancel those whose step others end."""

    sleep: Sleep
    stops: bool = True


async def run(
    broker: Broker,
    step: Step,
    params: CallToolRequestParams,
    ctx: ServerRequestContext[Any, Any],
    call_next: CallNext,
    how: Running,
) -> HandlerResult:
    """The tool's result. The step is closed on every way out, except when it waits for its client."""
    outcome: Outcome = "failed"
    waits = False
    try:
        with entered(step):
            inner = guarded(ctx, step)
            result = await broker.alive.beside(
                step, lambda: call_next(inner), sleep=how.sleep, stops=how.stops
            )
            result = await _paused(broker, step, result, ctx.protocol_version)
        page = handed(step, ctx, broker.issuer) if _stuck(step, result) and step.root is None else None
        told = page.result(params) if page is not None and page.is_modern else None
        if page is not None and await _waiting(broker, step, None if told is None else keep(step, told)):
            waits = True
            if told is None:
                raise page.error()
            return _with_ref(step, told)
        waits = step.root is None and (isinstance(result, InputRequiredResult) or is_task(result))
        if not waits:
            result = _mapped(step, result)
            outcome = "failed" if _is_error(result) else "done"
        return _with_ref(step, result)
    except StoppedError as end:
        return refused_result(stopped(step, end.how))
    except MCPError as error:
        if waits or error.code != URL_ELICITATION_REQUIRED:
            raise
        asked = await _paged(broker, step, error, ctx.protocol_version)
        waits = isinstance(asked, MCPError) and step.root is None
        return _raised(asked)
    except anyio.get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        by_others = step.ended is not None
        step.end("waiting" if waits else outcome)
        if not waits:
            await close(broker, step, outcome, by_others=by_others)


def stopped(step: Step, how: str) -> Refusal:
    """What is told of a call whose step was ended while its body ran."""
    code = how if how in ("revoked", "expired") else "closed"
    reason = (
        "the step was ended while the tool ran, and the tool was stopped; what it had done by then stands"
    )
    return local(code, reason, ref=step.ref)


async def _paused(broker: Broker, step: Step, result: HandlerResult, version: str) -> HandlerResult:
    """A result that is none yet: the step waits for its client's answer, or for the worker of its task.

    Each thing that the client is to do is a step of ours.
    """
    if not isinstance(result, InputRequiredResult) and not is_task(result):
        return result
    state: str | None = None
    try:
        if isinstance(result, InputRequiredResult):
            result = (await proven(step, result, version)).model_copy()
            state = keep(step, result) if step.root is None else None
        if step.root is None:  # else the answer comes as a call of its own
            await broker.wait(step.id, step.round, state)
    except RefusedError as no:
        return refused_result(no.refusal)
    except IdentityUnavailable as missing:
        return refused_result(local("unavailable", str(missing), ref=step.ref))
    return result


def is_task(result: HandlerResult) -> bool:
    """Whether the call became a task, which an extension of FastMCP makes: its body is still to run."""
    return getattr(result, "result_type", None) == "task"


async def _paged(broker: Broker, step: Step, error: MCPError, version: str) -> MCPError | CallToolResult:
    """The error that asks for pages, proven, and the step waits for the next call; or why not."""
    if version >= MODERN:
        advice = "error -32042 of 2025-11-25; on 2026-07-28 return what you ask for as input_requests"
        return refused_result(local("not_yet_supported", advice, ref=step.ref))
    try:
        asked = await pages(step, error)
        if step.root is None:
            await broker.wait(step.id, step.round)
    except RefusedError as no:
        return refused_result(no.refusal)
    except IdentityUnavailable as missing:
        return refused_result(local("unavailable", str(missing), ref=step.ref))
    except (ValueError, TypeError, AttributeError):
        return refused_result(local("invalid_request", "error -32042 without its pages", ref=step.ref))
    return asked


def _raised(asked: MCPError | CallToolResult) -> CallToolResult:
    if isinstance(asked, MCPError):
        raise asked from None
    return asked


def _mapped(step: Step, result: HandlerResult) -> HandlerResult:
    """A refusal that the body let pass is told as a refusal, where mcp only tells of a crash."""
    return refused_result(step.refused) if step.refused is not None and _crashed(step, result) else result


def _stuck(step: Step, result: HandlerResult) -> bool:
    """Whether a refusal is the end of this round: the body let it pass, or it stopped what the body asks."""
    return _crashed(step, result) or (step.awaited is not None and _is_refusal(result))


def _is_refusal(result: HandlerResult) -> bool:
    return isinstance(result, CallToolResult) and META_REFUSAL in (result.meta or {})


def _crashed(step: Step, result: HandlerResult) -> bool:
    """Whether mcp tells of an exception that the body let pass."""
    if not isinstance(result, CallToolResult) or not result.is_error:
        return False
    return result.content == crash(step.tool.partition("/")[2]).content


def crash(tool: str) -> CallToolResult:
    """What mcp tells of a tool that raised: that it did, and nothing else."""
    text = f"Error executing tool {tool}"
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


async def _waiting(broker: Broker, step: Step, state: str | None) -> bool:
    """The step waits for its next round; False when the broker would not have it."""
    try:
        await broker.wait(step.id, step.round, state)
    except (RefusedError, IdentityUnavailable) as no:
        _log.warning("step %s does not wait for an approval: %s", step.ref, no)
        return False
    return True


async def close(broker: Broker, step: Step, outcome: Outcome, *, by_others: bool) -> None:
    """Also while being cancelled. What cannot be closed now is ended by its missing heartbeat; what others
    ended needs no close.
    """
    with anyio.move_on_after(CLOSE_S, shield=True):
        try:
            if not by_others:
                await broker.close_step(step.id, outcome)
        except StepwritError as failed:
            _log.warning("step %s was not closed: %s", step.ref, failed)
    if step.root is not None:
        await close_root(broker, step.root, outcome)


def _is_error(result: HandlerResult) -> bool:
    if isinstance(result, dict):
        return bool(result.get("isError"))
    return isinstance(result, CallToolResult) and result.is_error


def _with_ref(step: Step, result: HandlerResult) -> HandlerResult:
    if not isinstance(result, CallToolResult | InputRequiredResult):
        return result
    meta = {META_REF: step.ref, **(result.meta or {})}
    return result.model_copy(update={"meta": meta})
