"""One witness: its key, its state and its listeners. It shares no file, key or database with any broker."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from contextlib import AsyncExitStack
from typing import Final, Self

import structlog

from stepwrit_broker.clock import SystemClock
from stepwrit_broker.config_checks import host_port
from stepwrit_broker.config_witness import NONE, WitnessConfig
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.edge.listeners import Listener, plain_listener, tls_listener
from stepwrit_broker.edge.rest import ops_app
from stepwrit_broker.edge.witness import WitnessMetrics, witness_app
from stepwrit_broker.ledger import keys
from stepwrit_broker.ledger.notes import parse_vkey
from stepwrit_broker.ledger.witness.state import WitnessState
from stepwrit_broker.ledger.witness.witness import MAX_BODY_BYTES, Witness

_log = structlog.get_logger("stepwrit.witness")


class WitnessServer:
    """A running witness. `async with WitnessServer(config) as server:` serves until left.

    Raises Malformed, NoteRefused for a key in the settings, Unavailable for a key file or a state file that
    cannot be used, ListenerError.
    """

    def __init__(self, config: WitnessConfig) -> None:
        self._config: Final = config
        self._stack = AsyncExitStack()
        self.vkey: str
        self.listener: Listener
        self.ops: Listener

    async def __aenter__(self) -> Self:
        """Everything or nothing."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let running requests finish, then let go of the state."""
        await self._stack.aclose()

    async def _start(self) -> None:
        config = self._config
        clock = SystemClock()
        signer = keys.load_witness(config.key_file)
        if signer.verifier.name != config.name:
            raise Malformed("invalid_request", f"name: the key file is that of {signer.verifier.name}")
        logs = [parse_vkey(each.vkey) for each in config.log]
        state = WitnessState(config.state_file)
        self._stack.callback(state.close)
        witness = Witness(signer, logs, state, clock.now)
        metrics = WitnessMetrics(witness.witnessed, clock.now)
        self.vkey = signer.verifier.vkey
        self.ops = plain_listener(*host_port(config.ops))
        await self._serve(self.ops, ops_app(text=metrics.text, ready=lambda: None, health=dict))
        self.listener = self._door()
        await self._serve(self.listener, witness_app(witness, metrics, MAX_BODY_BYTES))

    def _door(self) -> Listener:
        config, (host, port) = self._config, host_port(self._config.listen)
        if config.tls_cert == NONE:
            return plain_listener(host, port, name="witness")
        return tls_listener(host, port, config.tls_cert, config.tls_key, name="witness")

    async def _serve(self, listener: Listener, app: object) -> None:
        await listener.start(app)
        self._stack.push_async_callback(listener.stop)


def _log_to_stderr() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


async def serve_witness(config: WitnessConfig) -> None:
    """Serve until SIGINT or SIGTERM; one JSON object a line on stderr."""
    _log_to_stderr()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    async with WitnessServer(config) as server:
        _log.info("witnessing", url=server.listener.url, ops=server.ops.url, vkey=server.vkey)
        await stop.wait()
