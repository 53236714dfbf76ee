"""The process in which a candidate policy is asked: its time, memory and faults are not the broker's.

    python -I -m stepwrit_broker.wiring.candidate_process

Frames on stdin and stdout: four bytes of length, then JSON. The first says which policy; each gets one
answer. It ends with its stdin.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.answer import answer_of
from stepwrit_broker.core.errors import Malformed, Problem, Unavailable
from stepwrit_broker.core.verdict import Asking, Question
from stepwrit_broker.flows.replay import replay, replay_json
from stepwrit_broker.ledger.view import LogView
from stepwrit_broker.ledger.where import open_source
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.ports import PolicyEngine
from stepwrit_broker.wiring.documents import OperatorDocuments

LENGTH_BYTES: Final = 4
NICE: Final = 10
_FILES: Final = ("ca_file", "token_file")
Json = dict[str, Any]


def opa_to_json(server: OpaServer | None) -> Json | None:
    """For the first frame: paths, no secret."""
    if server is None:
        return None
    ca_file, token_file = server.ca_file, server.token_file
    return {**asdict(server), "ca_file": _text(ca_file), "token_file": _text(token_file)}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def opa_of(said: Json | None) -> Opa | None:
    """The OPA of a first frame, with connections and a breaker of its own. Raises OSError, ssl.SSLError."""
    if said is None:
        return None
    given: Any = {name: Path(said[name]) for name in _FILES if said[name] is not None}
    return Opa(OpaServer(**{**said, **given}), elapsed_s)


async def compiled(documents: OperatorDocuments, frame: Json) -> tuple[PolicyEngine, Json]:
    """The engine, and what is said of it. Raises Malformed, Unavailable."""
    doc, digest = documents.read("policy", frame["text"], "policy")
    engine = documents.policy(doc, 0)
    await documents.prove(engine)
    return engine, {"doc": doc, "digest": digest}


async def asked(engine: PolicyEngine, frame: Json) -> Json:
    """An answer for each question; null where the engine is in doubt."""
    return {"answers": [await _one(engine, _question(*each)) for each in frame["ask"]]}


def _question(asking: Asking, principal: str, resource: str, document: Json) -> Question:
    return Question(asking=asking, principal=principal, resource=resource, document=document)


async def _one(engine: PolicyEngine, question: Question) -> Json | None:
    try:
        return answer_of(await engine.decide(question)).as_json
    except Problem:
        return None


async def replayed(engine: PolicyEngine, frame: Json) -> Json:
    """The recorded decisions, asked again within the bounds. Raises Unavailable."""
    ends = elapsed_s() + frame["seconds"]
    with closing(LogView(open_source(frame["db"]))) as ledger:
        first = max(0, int(str(ledger.head()["size"])) - frame["entries"])
        found = await replay(
            ledger,
            engine.decide,
            first=first,
            since=frame["since"],
            goes_on=lambda: elapsed_s() < ends,
        )
        left = int(str(ledger.head()["size"])) - 1 - found.last if elapsed_s() >= ends else 0
    return {**replay_json(found, frame["most"]), "first_entry": first, "entries_not_reached": left}


async def serve(inp: BinaryIO, out: BinaryIO) -> None:
    """Until `inp` ends."""
    first = _read(inp)
    if first is None:
        return
    opa = opa_of(first["opa"])
    try:
        engine, about = await compiled(OperatorDocuments(opa=opa), first)
        _write(out, about)
        while (frame := _read(inp)) is not None:
            work: Callable[[PolicyEngine, Json], Awaitable[Json]] = asked if "ask" in frame else replayed
            _write(out, await _or_why(work(engine, frame)))
    except (Malformed, Unavailable) as bad:
        _write(out, {"bad": type(bad).__name__, "reason": bad.reason})
    finally:
        if opa is not None:
            await opa.aclose()


async def _or_why(work: Awaitable[Json]) -> Json:
    try:
        return await work
    except Unavailable as doubt:
        return {"bad": "Unavailable", "reason": doubt.reason}


def _read(inp: BinaryIO) -> Json | None:
    head = inp.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    body = inp.read(int.from_bytes(head, "big"))
    found: Json = msgspec.json.decode(body)
    return found


def _write(out: BinaryIO, value: Json) -> None:
    body = msgspec.json.encode(value)
    out.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
    out.flush()


def main() -> None:
    """Nothing but frames goes to the real stdout."""
    with suppress(OSError):
        os.nice(NICE)
    inp, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with suppress(BrokenPipeError, KeyboardInterrupt):
        asyncio.run(serve(inp, out))


if __name__ == "__main__":
    main()
