"""While a broker drains, it serves what comes and tells each connection to close (RFC 9112 section 9.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stepwrit_broker.edge.http import Asgi, Message, Receive, Scope, Send

CLOSE: Final = (b"connection", b"close")


class Draining:
    """ASGI middleware. is_draining: asked as each answer begins."""

    def __init__(self, app: Asgi, is_draining: Callable[[], bool]) -> None:
        self._app, self._is_draining = app, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve; the answer's head says `Connection: close` while draining."""

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_draining():
                message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        await self._app(scope, receive, telling)
