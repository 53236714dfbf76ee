"""One run of a background task's body, under its step, in the queue's worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import anyio
from fastmcp.tools.base import InputRequiredToolResult, ToolResult
from mcp_types import InputRequiredResult

from stepwrit._alive import StoppedError
from stepwrit._mcp_inputs import refused_result
from stepwrit._mcp_run import Running, close, stopped
from stepwrit.client import Broker
from stepwrit.errors import RefusedError
from stepwrit.lineage import Step, entered
from stepwrit.wire import Outcome, Refusal

_ENDING: Final[set[asyncio.Future[None]]] = set()

Body = Callable[[], Awaitable[Any]]
Asks = Callable[[Step, InputRequiredResult], Awaitable[None]]


async def run(broker: Broker, step: Step, body: Body, how: Running, asks: Asks) -> Any:
    """One run of a task's body. The step ends with it, unless it asks its client and waits for the answer.

    asks: opens the steps of what it asks for.
    """
    outcome: Outcome = "failed"
    waits = False
    try:
        with entered(step):
            result = await broker.alive.beside(step, body, sleep=how.sleep, stops=how.stops)
            asked = _asked(result)
            if asked is not None:
                await asks(step, asked)
                await broker.wait(step.id, step.round)
                waits = True
        outcome = "failed" if isinstance(result, ToolResult) and result.is_error else "done"
        return result
    except StoppedError as end:
        return told(stopped(step, end.how))
    except RefusedError as no:
        return told(step.refused or no.refusal)
    except anyio.get_cancelled_exc_class():
        outcome = "cancelled"
        raise
    finally:
        by_others = step.ended is not None
        step.end("waiting" if waits else outcome)
        if not waits:
            await _surely(close(broker, step, outcome, by_others=by_others))


async def _surely(end: Coroutine[Any, Any, None]) -> None:
    """Also in a worker that shuts down: the queue cancels its tasks by asyncio's own means, and again."""
    task = asyncio.ensure_future(end)
    _ENDING.add(task)
    task.add_done_callback(_ENDING.discard)
    await asyncio.shield(task)


def _asked(result: Any) -> InputRequiredResult | None:
    if isinstance(result, InputRequiredToolResult):
        return result.input_required
    return result if isinstance(result, InputRequiredResult) else None


def told(refusal: Refusal) -> ToolResult:
    """A refusal as a task's result."""
    return ToolResult.from_mcp_result(refused_result(refusal))
