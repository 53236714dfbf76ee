"""A program of the tests' own that serves MCP over HTTP, in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from stepwrit_broker.dev.ports import free_port


@asynccontextmanager
async def serving(program: Path, log: Path, environ: Mapping[str, str], *words: str) -> AsyncGenerator[str]:
    """Its URL, once it answers. It is given a free port and these words; log: what it says."""
    port = free_port()
    command = [sys.executable, str(program), str(port), *words]
    with log.open("wb") as said:
        process = subprocess.Popen(command, env=dict(environ), stdout=said, stderr=said)
    url = f"http://127.0.0.1:{port}/mcp"
    try:
        async with httpx2.AsyncClient() as http:
            while True:
                assert process.poll() is None, log.read_text()[-2000:]
                try:
                    await http.get(url)
                    break
                except httpx2.TransportError:
                    await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
