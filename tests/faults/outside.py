"""A witness beside the fleet: somebody else, who remembers the largest log that he was shown."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.faults.least import stepwrit
from tests.faults.observed import SeenCheckpoint
from tests.faults.process import Process
from tests.faults.watching import checkpoint_of
from tests.faults.world import DOMAIN

from stepwrit_broker.dev.ports import is_free, steady_port
from stepwrit_broker.ledger import keys as ledger_keys

NAME = f"witness.{DOMAIN}/w1"
WAIT_S = 120.0


class Witness:
    """`stepwrit witness run`, on plain HTTP on loopback."""

    def __init__(self, folder: Path) -> None:
        self._own = folder / "witness"
        self._port = steady_port()
        program = str(Path(sys.executable).with_name("stepwrit"))
        command = [program, "witness", "run", "--config", str(self._config)]
        self.process = Process("witness", command, log=folder / "witness.log")

    @property
    def _config(self) -> Path:
        return self._own / "witness.toml"

    async def make(self, ledger_key: Path) -> str:
        """Its key and settings; what a broker's broker.toml says of it."""
        log = ledger_keys.load(ledger_key).verifier.vkey
        await stepwrit("witness", "init", str(self._own), "--name", NAME, "--log", log)
        text = self._config.read_text()
        settings = f'listen = "127.0.0.1:{self._port}"\nops = "127.0.0.1:{steady_port()}"\n'
        kept = [line for line in text.splitlines() if not line.startswith(("listen", "ops"))]
        self._config.write_text(settings + "\n".join(kept) + "\n")
        vkey = (await stepwrit("witness", "key", "--config", str(self._config))).strip()
        return f'[[witness]]\nurl = "http://127.0.0.1:{self._port}"\nvkey = "{vkey}"\n'

    async def start(self) -> None:
        """Run, and listen."""
        await self.process.start()
        async with asyncio.timeout(WAIT_S):
            while is_free(self._port):
                await asyncio.sleep(0.2)

    async def stop(self) -> None:
        """An orderly end."""
        await self.process.end()

    async def kept(self) -> SeenCheckpoint:
        """What it cosigned last; it may have ended."""
        words = ("witness", "show", "--config", str(self._config), "--log", f"{DOMAIN}/log")
        return checkpoint_of("the witness", await stepwrit(*words))
