"""One connection to one server: commands go out together, answers come back in order, nothing goes twice.

redis-py connects, proves who we are and parses; sending and waiting are here, as its pool costs twice as much
CPU per script and knows nothing of a reign (ADR "Few pipelined connections to Redis"). hiredis writes the
commands, at a fifth of what redis-py's own writing costs.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import TimeoutError as SilentConnection

from stepwrit_broker.store.fleet.redis.scripts import Script
from stepwrit_broker.store.fleet.redis.trouble import doubtful, refused
from stepwrit_broker.store.fleet.redis.url import Address

Word = bytes | str | int
_LOST: Final = (OSError, EOFError, LostConnection, SilentConnection, asyncio.TimeoutError)
_ELSEWHERE: Final = (AskError, ClusterDownError, MasterDownError, MovedError, ReadOnlyError, TryAgainError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How to connect. timeout_s: to connect, and for each answer. TLS where there is one: a CA file, and a
    certificate and key where the server asks for them; files, PEM.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    timeout_s: float = 2.0
    is_tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def as_user(self, username: str | None, password: str | None) -> Login:
        """The same, as another user and of no database."""
        return replace(self, username=username, password=password, db=0)

    def connection(self, address: Address) -> Connection:
        """Not connected yet."""
        options: dict[str, Any] = {
            "host": address[0],
            "port": address[1],
            "username": self.username,
            "password": self.password,
            "db": self.db,
            "protocol": 2,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
        }
        if not self.is_tls:
            return Connection(**options)
        return SSLConnection(
            ssl_ca_certs=self.ca_file,
            ssl_certfile=self.cert_file,
            ssl_keyfile=self.key_file,
            ssl_cert_reqs="required",
            ssl_check_hostname=True,
            **options,
        )


class Wire:
    """An open connection. address: of the server. run_id, role: as INFO said on it when it was opened."""

    def __init__(self, address: Address, connection: Connection, timeout_s: float) -> None:
        self.address, self.run_id, self.role = address, "", ""
        self._connection, self._timeout_s = connection, timeout_s
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._has_unsent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.is_open = False
        self._is_lost = False

    @classmethod
    async def open(cls, address: Address, login: Login, *, looks: bool = True) -> Wire:
        """Connect, and read which server this is. looks: False does not read it.

        Raises Unavailable(rule="store").
        """
        connection = login.connection(address)
        try:
            await cast("Awaitable[None]", connection.connect())  # type: ignore[no-untyped-call]
        except (*_LOST, RedisError) as error:
            await connection.disconnect(nowait=True)
            raise doubtful(error) if isinstance(error, _LOST) else refused(error) from None
        except asyncio.CancelledError:
            await connection.disconnect(nowait=True)
            raise
        connection.socket_timeout = None  # from here on each command has its own
        wire = cls(address, connection, login.timeout_s)
        wire._start()
        try:
            if looks:
                await wire._look()
        except BaseException:
            await wire.close()
            raise
        return wire

    def _start(self) -> None:
        self.is_open = True
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    async def _look(self) -> None:
        try:
            info = fields(await self.call("INFO", "server")) | fields(await self.call("INFO", "replication"))
        except ResponseError as reply:
            raise refused(reply) from None
        self.run_id, self.role = info.get("run_id", ""), info.get("role", "")

    async def call(self, *words: Word, wait_s: float = 0.0) -> Any:
        """Send one command and wait for its answer; wait_s: that the server itself may wait.

        Raises Unavailable(rule="store") when the connection is lost or silent, and redis-py's ResponseError
        for an error that the server answers.
        """
        if not self.is_open:
            raise doubtful()
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._unsent.append(hiredis.pack_command(cast("Any", words)))
        self._has_unsent.set()
        try:
            async with asyncio.timeout(self._timeout_s + wait_s):
                return await future
        except TimeoutError as error:
            self._lose(error)
            raise doubtful(error) from None

    async def run(self, script: Script, keys: list[str], words: list[Word]) -> list[Any]:
        """Run a script; one that the server does not have has not run, and is sent again after it is loaded.

        Raises Unavailable(rule="store").
        """
        command = ("EVALSHA", script.sha, len(keys), *keys, *words)
        try:
            try:
                return cast("list[Any]", await self.call(*command))
            except NoScriptError:
                await self.call("SCRIPT", "LOAD", script.source)
                return cast("list[Any]", await self.call(*command))
        except ResponseError as reply:
            if isinstance(reply, _ELSEWHERE):
                self.retire()
            raise refused(reply) from None

    def retire(self) -> None:
        """Another server may be the right one: this takes no more commands, and ends with its last answer."""
        self.is_open = False
        if not self._waiting:
            self._lose(None)

    async def _send(self) -> None:
        try:
            while not self._is_lost:
                await self._has_unsent.wait()
                self._has_unsent.clear()
                pieces, self._unsent = self._unsent, []
                await self._connection.send_packed_command(pieces, check_health=False)
        except (*_LOST, RedisError) as error:
            self._lose(error)

    async def _receive(self) -> None:
        read = self._connection.read_response
        try:
            while not self._is_lost:
                try:
                    answer, failed = await read(timeout=math.inf), None
                except ResponseError as reply:
                    answer, failed = None, reply
                self._answer(answer, failed)
        except (*_LOST, RedisError) as error:
            self._lose(error)

    def _answer(self, answer: Any, failed: ResponseError | None) -> None:
        future = self._waiting.popleft()
        if not future.done():
            future.set_result(answer) if failed is None else future.set_exception(failed)
        if not (self.is_open or self._waiting):
            self._lose(None)

    def _lose(self, cause: BaseException | None) -> None:
        """Nothing goes over it any more; what waits for an answer gets none."""
        if self._is_lost:
            return
        self.is_open, self._is_lost = False, True
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(doubtful(cause))
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._closing = asyncio.ensure_future(self._connection.disconnect(nowait=True))

    async def close(self) -> None:
        """Let go of it."""
        self._lose(None)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect(nowait=True)


def fields(said: bytes) -> dict[str, str]:
    """INFO's and CLUSTER INFO's lines `name:value`."""
    lines = (line.partition(":") for line in said.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon and not name.startswith("#")}
