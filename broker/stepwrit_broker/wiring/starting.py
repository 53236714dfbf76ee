"""A start that what is in doubt for a moment does not end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

import structlog

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.wiring.broker import Broker
from stepwrit_broker.wiring.settings import BrokerSettings

PATIENCE_S: Final = 60.0
_log = structlog.get_logger("stepwrit.broker")


@contextlib.asynccontextmanager
async def started(
    settings: BrokerSettings, stop: asyncio.Event, patience_s: float = PATIENCE_S
) -> AsyncGenerator[Broker | None]:
    """A broker that serves until left; None where `stop` was set before it did.

    One of a fleet is begun again while its engines are in doubt and may come round by themselves (a fail-over
    under way, Sentinels that name the primary of before): for `patience_s` seconds, then the doubt is raised.
    Raises as `Broker` does.
    """
    broker = await _begun(settings, stop, asyncio.get_running_loop().time() + patience_s)
    try:
        yield broker
    finally:
        if broker is not None:
            await broker.__aexit__()


async def _begun(settings: BrokerSettings, stop: asyncio.Event, until: float) -> Broker | None:
    while not stop.is_set():
        try:
            return await Broker(settings).__aenter__()
        except Unavailable as doubt:
            over = asyncio.get_running_loop().time() > until
            if settings.fleet is None or doubt.retry_after is None or over:
                raise
            _log.warning("not started yet", why=doubt.reason, again_in_s=doubt.retry_after)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), doubt.retry_after)
    return None
