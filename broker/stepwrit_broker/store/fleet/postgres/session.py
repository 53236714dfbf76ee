"""Connections to the true engine: how its sessions are set, and its trouble as ours.

A broker that is paused in the middle of a transaction must not stop the others: its session is ended by the
server after `idle_s`, which is shorter than `lock_s`, for which the others wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import asyncpg
from asyncpg.exceptions import InterfaceError, InternalClientError, PostgresError

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.log import Conn
from stepwrit_broker.store.fleet.postgres.schema import SCHEMA, in_doubt

TROUBLE: Final = (PostgresError, InterfaceError, InternalClientError, OSError, TimeoutError)
# Each statement goes by an index, whatever the statistics of a young table say; so it is planned once.
_PLANS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_VITAL: Final = 3  # connections that the stream, the brake and the epoch have to themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where the server is and how to speak with it. All times in seconds.

    dsn: may name several hosts with `target_session_attrs=read-write`. synchronous_commit: `on`, or
    `remote_apply`; less is not offered. tls: None as the DSN says.
    """

    dsn: str = field(repr=False)
    synchronous_commit: Literal["on", "remote_apply"] = "on"
    connections: int = 8
    connect_s: float = 5.0
    statement_s: float = 10.0
    lock_s: float = 5.0
    idle_s: float = 2.0
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def settings(self) -> dict[str, str]:
        """What every connection begins with."""
        return {
            "application_name": "stepwrit",
            "search_path": SCHEMA,
            "synchronous_commit": self.synchronous_commit,
            "default_transaction_isolation": "read committed",
            "idle_in_transaction_session_timeout": _ms(self.idle_s),
            "lock_timeout": _ms(self.lock_s),
            "statement_timeout": _ms(self.statement_s),
            "jit": "off",
            **_PLANS,
        }


def _ms(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))


def unreachable(error: BaseException) -> Unavailable:
    """Trouble with the server, told without what it said: that may name rows."""
    state = getattr(error, "sqlstate", None)
    said = f"SQLSTATE {state}" if state else type(error).__name__
    return Unavailable(
        "unavailable",
        f"the fleet's database did not answer as it should ({said})",
        rule="store",
        retry_after=1.0,
        who_can_change_it="the operator",
    )


@contextlib.contextmanager
def trouble() -> Generator[None]:
    """Whatever the server or the way to it does wrong is Unavailable(rule="store")."""
    try:
        yield
    except TROUBLE as error:
        raise unreachable(error) from error


async def connect(session: Session) -> Conn:
    """One connection of its own. Raises Unavailable."""
    given = {"timeout": session.connect_s, "command_timeout": session.statement_s + 1, **_tls(session)}
    with trouble():
        try:
            return await asyncpg.connect(session.dsn, server_settings=session.settings, **given)  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise in_doubt(f"the DSN of the fleet's database: {error}") from None


def _tls(session: Session) -> dict[str, Any]:
    return {} if session.tls is None else {"ssl": session.tls}


async def _as_it_is(conn: Conn) -> None:
    """No query between uses: nothing here changes a session beyond its transaction."""


class Connections:
    """Two pools: one for whoever comes, and a few connections that these cannot take away."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._common, self._vital = self._pool(session.connections), self._pool(_VITAL)

    def _pool(self, most: int) -> Any:
        return asyncpg.create_pool(  # type: ignore[no-untyped-call]
            self.session.dsn,
            min_size=0,
            max_size=most,
            timeout=self.session.connect_s,
            command_timeout=self.session.statement_s + 1,
            server_settings=self.session.settings,
            reset=_as_it_is,
            **_tls(self.session),
        )

    async def open(self) -> None:
        """Ready the pools; nothing is connected yet."""
        await self._common
        await self._vital

    @contextlib.asynccontextmanager
    async def use(self, *, vital: bool = False) -> AsyncGenerator[Conn]:
        """A connection outside a transaction; each statement is its own."""
        pool = self._vital if vital else self._common
        with trouble():
            async with pool.acquire(timeout=self.session.connect_s) as conn:
                yield conn

    @contextlib.asynccontextmanager
    async def write(self, *, vital: bool = False) -> AsyncGenerator[Conn]:
        """A transaction: durable when this ends without an error."""
        async with self.use(vital=vital) as conn, conn.transaction():
            yield conn

    @contextlib.asynccontextmanager
    async def glance(self, *, vital: bool = False) -> AsyncGenerator[Conn]:
        """Several reads of one moment."""
        async with (
            self.use(vital=vital) as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield conn

    async def close(self) -> None:
        """Let go of all; those that do not answer are cut."""
        for pool in (self._common, self._vital):
            try:
                async with asyncio.timeout(self.session.connect_s):
                    await pool.close()
            except TROUBLE:
                pool.terminate()
