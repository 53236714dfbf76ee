"""The ways into the in-memory broker; each vouches for its caller, as mutual TLS would."""

from __future__ import annotations

from typing import Final, Protocol

import anyio

from stepwrit.flow import Request, Response

_LOOK_S: Final = 0.005


class Behind(Protocol):
    """What a door leads to."""

    def handle(self, request: Request, caller: str) -> Response:
        """The answer to one request of the workload `caller`."""
        ...

    def is_held(self, request: Request, caller: str) -> bool:
        """Whether there is nothing yet to answer it with."""
        ...


class SyncDoor:
    """A `SyncTransport` into the in-memory broker."""

    def __init__(self, broker: Behind, caller: str) -> None:
        self._broker: Final = broker
        self._caller: Final = caller

    def send(self, request: Request) -> Response:
        """The answer; this door never loses one, and holds none back."""
        return self._broker.handle(request, self._caller)

    def close(self) -> None:
        """Nothing to let go."""


class Door:
    """A `Transport` into the in-memory broker."""

    def __init__(self, broker: Behind, caller: str) -> None:
        self._broker: Final = broker
        self._caller: Final = caller

    async def send(self, request: Request) -> Response:
        """The answer, held back as asked while there is nothing to tell; this door never loses one."""
        with anyio.move_on_after(request.hold_s):
            while self._broker.is_held(request, self._caller):  # noqa: ASYNC110  moved from any thread or loop
                await anyio.sleep(_LOOK_S)
        return self._broker.handle(request, self._caller)

    async def close(self) -> None:
        """Nothing to let go."""
