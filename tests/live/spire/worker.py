"""A workload in a process of its own: it has one SVID, and sends what its parent asks it to send.

One JSON object a line, in both directions; an answer has the number of its question. It ends with its input.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

from cryptography import x509
from tests.live.spire.authorities import key_ids, signer

from stepwrit._transport import HttpTransport
from stepwrit.errors import IdentityUnavailable
from stepwrit.flow import Lost, Request
from stepwrit.identity import WorkloadIdentity


class Worker:
    def __init__(self, socket: str, broker_id: str) -> None:
        self._identity = WorkloadIdentity(socket)
        self._broker_id = broker_id
        self._transports: dict[str, HttpTransport] = {}

    async def run(self) -> None:
        await self._identity.start()
        questions = asyncio.StreamReader(limit=1 << 20)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(questions), sys.stdin
        )
        async with asyncio.TaskGroup() as group:
            while line := await questions.readline():
                group.create_task(self._answer(json.loads(line)))
        for transport in self._transports.values():
            await transport.close()
        await self._identity.close()

    async def _answer(self, asked: dict[str, Any]) -> None:
        try:
            said = await getattr(self, f"_{asked['op']}")(asked)
        except (IdentityUnavailable, Lost) as failed:
            said = {"failed": type(failed).__name__, "why": str(failed)}
        sys.stdout.write(json.dumps({"n": asked["n"], **said}) + "\n")
        sys.stdout.flush()

    async def _send(self, asked: dict[str, Any]) -> dict[str, Any]:
        url = asked["url"]
        if url not in self._transports:
            self._transports[url] = HttpTransport(url, self._identity, self._broker_id)
        request = Request(
            method=asked["method"],
            path=asked["path"],
            headers=asked["headers"],
            body=base64.b64decode(asked["body"]),
        )
        reply = await self._transports[url].send(request)
        body = base64.b64encode(reply.body).decode()
        return {"status": reply.status, "headers": dict(reply.headers), "body": body}

    async def _jwt(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"svid": await asyncio.to_thread(self._identity.jwt_svid, asked["audience"])}

    async def _look(self, _: dict[str, Any]) -> dict[str, Any]:
        """How it is, and what it was given last."""
        state = {"state": self._identity.health().state, "why": self._identity.health().why}
        snapshot = self._identity.snapshot() if state["state"] in ("ok", "stale") else None
        if snapshot is None:
            return {**state, "id": None, "serial": None, "signer": None, "roots": []}
        leaf = x509.load_der_x509_certificate(snapshot.chain[0])
        roots = [key for bundle in snapshot.bundles.values() for key in key_ids(bundle)]
        return {
            **state,
            "id": snapshot.spiffe_id,
            "serial": leaf.serial_number,
            "signer": signer(leaf),
            "roots": roots,
        }


if __name__ == "__main__":
    asyncio.run(Worker(*sys.argv[1:]).run())
