"""The bank: a guarded application that writes down each request, and answers when the file `go` is there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn

from stepwrit.guard import StepwritGuard

FOLDER = Path(sys.argv[1])


async def app(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive()).get("body", b"")
    with (FOLDER / "hits").open("a") as hits:
        hits.write(json.dumps({"args": json.loads(body)}) + "\n")
    while not (FOLDER / "go").exists():
        await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"archived"})


if __name__ == "__main__":
    audience = os.environ["BANK"]
    guarded = StepwritGuard(app, audience=audience)
    uvicorn.run(guarded, host="127.0.0.1", port=int(audience.rpartition(":")[2]), log_level="warning")
