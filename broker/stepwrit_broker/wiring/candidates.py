"""Candidates in processes of their own, as the broker holds them."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec

from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.answer import Answer, answer_from
from stepwrit_broker.core.errors import Malformed, Unavailable
from stepwrit_broker.core.verdict import Question
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.wiring.candidate_process import LENGTH_BYTES, opa_to_json

COMMAND: Final = (sys.executable, "-I", "-m", "stepwrit_broker.wiring.candidate_process")
START_S: Final = 30.0
ASK_S: Final = 10.0
RESTART_S: Final = 5.0
FRAME_MAX: Final = 64 * 1024 * 1024
_to_json: Final = msgspec.json.Encoder().encode
Json = Mapping[str, Any]
T = TypeVar("T")


class Candidates:
    """Opens candidates. db: the database that they replay (file or DSN); opa: who evaluates Rego for them."""

    def __init__(self, db: Path | str, opa: OpaServer | None, command: Sequence[str] = COMMAND) -> None:
        self._db, self._opa, self._command = db, opa, command

    async def open(self, text: str) -> ProcessCandidate:
        """A policy's files as JSON of texts by name, checked and proved. Raises Malformed, Unavailable."""
        first = {"text": text, "opa": opa_to_json(self._opa)}
        candidate = ProcessCandidate(self._command, first, self._db)
        try:
            await candidate.start()
        except BaseException:
            await candidate.aclose()
            raise
        return candidate

    async def reopen(self, doc: str) -> ProcessCandidate:
        """A canonical document again. Raises as `open` does."""
        read = json.loads(doc)
        return await self.open(json.dumps({**read["files"], "facts.json": json.dumps(read["facts"])}))


class ProcessCandidate:
    """One candidate in one process. A process that ended or hangs is started again, not too often."""

    def __init__(self, command: Sequence[str], first: Json, db: Path | str) -> None:
        self._command, self._first, self._db = command, first, db
        self._running: _Running | None = None
        self._turn = asyncio.Lock()
        self._began = 0.0
        self.digest = self.doc = ""

    async def start(self) -> None:
        """Start the process and give it the policy. Raises Malformed, Unavailable."""
        self._began = elapsed_s()
        running = self._running = await _started(self._command)
        self.digest, self.doc = await self._exchange(running, self._first, START_S, _opened)

    async def answers(self, questions: Sequence[Question]) -> Sequence[Answer | None]:
        """As the process says. Raises Unavailable(rule=`timeout` | `ended` | `shape` | `starting`)."""
        ask = [(each.asking, each.principal, each.resource, each.document) for each in questions]

        def read(said: Json) -> list[Answer | None]:
            pairs = zip(questions, said["answers"], strict=True)
            return [None if each is None else answer_from(each) for _, each in pairs]

        return await self._call({"ask": ask}, ASK_S, read)

    async def replay(self, *, since: float, entries: int, seconds: float, most: int) -> Json:
        """In the process, on a reader of its own. Raises Unavailable."""
        frame = {"since": since, "entries": entries, "seconds": seconds, "most": most, "db": str(self._db)}
        return await self._call(frame, seconds + ASK_S, lambda said: said)

    async def aclose(self) -> None:
        """End the process."""
        running, self._running = self._running, None
        if running is not None:
            await _ended(running)

    async def _call(self, frame: Json, seconds: float, read: Callable[[Json], T]) -> T:
        async with self._turn:
            if self._running is None or self._running.process.returncode is not None:
                await self._again()
            if self._running is None:
                raise _gone("ended", "the candidate was closed")
            return await self._exchange(self._running, frame, seconds, read)

    async def _again(self) -> None:
        if elapsed_s() - self._began < RESTART_S:
            raise _gone("starting", "the candidate's process is being started again")
        try:
            await self.start()
        except Malformed as bad:  # OPA takes it no more
            raise _gone("doubt", bad.reason) from bad

    async def _exchange(self, running: _Running, frame: Json, seconds: float, read: Callable[[Json], T]) -> T:
        """One frame each way; whoever does not answer, in time and in shape, is ended."""
        try:
            async with asyncio.timeout(seconds):
                said = await _sent(running, frame)
            if "bad" not in said:
                return read(said)
        except asyncio.CancelledError:
            await asyncio.shield(_ended(running))
            raise
        except (TimeoutError, OSError, EOFError, ValueError, KeyError, TypeError) as bad:
            await _ended(running)
            why = _why(bad)
            raise _gone(why, f"the candidate's process gave no answer ({why})") from bad
        if said["bad"] == "Malformed":
            raise Malformed("invalid_request", str(said["reason"]))
        raise _gone("doubt", str(said["reason"]))


def _opened(said: Json) -> tuple[str, str]:
    return str(said["digest"]), str(said["doc"])


def _why(bad: Exception) -> str:
    if isinstance(bad, TimeoutError):
        return "timeout"
    return "ended" if isinstance(bad, OSError | EOFError) else "shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    process: Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader


async def _started(command: Sequence[str]) -> _Running:
    """With nothing of our environment, and outside our process group."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={}, start_new_session=True
    )
    return _Running(
        process=process,
        stdin=cast("asyncio.StreamWriter", process.stdin),
        stdout=cast("asyncio.StreamReader", process.stdout),
    )


async def _sent(running: _Running, frame: Json) -> Json:
    body = _to_json(frame)
    running.stdin.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
    await running.stdin.drain()
    length = int.from_bytes(await running.stdout.readexactly(LENGTH_BYTES), "big")
    if length > FRAME_MAX:
        raise ValueError("too large an answer")
    said: Json = msgspec.json.decode(await running.stdout.readexactly(length), type=dict)
    return said


async def _ended(running: _Running) -> None:
    with suppress(ProcessLookupError):
        running.process.kill()
    await running.process.wait()


def _gone(why: str, reason: str) -> Unavailable:
    return Unavailable("unavailable", reason, rule=why, retry_after=RESTART_S)
