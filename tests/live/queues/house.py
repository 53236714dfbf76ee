"""A development broker as a process, with this suite's registry. Arguments: a folder, the bank's URL."""

from __future__ import annotations

import asyncio
import sys
import warnings
from pathlib import Path
from typing import Any

from stepwrit_broker.dev.broker import LIMITS, DevBroker, DevOptions, dev_id
from stepwrit_broker.dev.ca import DevelopmentModeWarning
from stepwrit_broker.dev.oidc import PERSON

WHO = ("agent/dev", "worker/1", "worker/2", "thief", "nightly", "bank")


def entries(bank: str) -> tuple[dict[str, Any], ...]:
    archive = {"impact": "low", "plan": [{"at": bank, "request": "POST /v1/archives"}]}
    may_start = {"tools": ["books/*"], "impact": "low"}
    timer = {"id": dev_id("nightly"), "role": "trigger", "name": "nightly", "owner": PERSON}
    return (
        {"id": dev_id("worker/*"), "role": "mcp-server", "name": "books", "tools": {"archive": archive}},
        {"id": dev_id("thief"), "role": "mcp-server", "name": "thief", "tools": {"x": {"impact": "low"}}},
        {"id": dev_id("bank"), "role": "resource", "name": "bank", "audience": bank},
        {**timer, "may_start": may_start},
    )  # fmt: skip


async def main(folder: Path, bank: str) -> None:
    limits = LIMITS.replace("intent: 1h", "intent: 24h")
    options = DevOptions(stance="low-risk", entries=entries(bank), limits=limits)
    async with DevBroker(folder, options) as dev:
        for path in WHO:
            dev.environment(path)
        (folder / "up").write_text("up")
        await asyncio.Event().wait()


if __name__ == "__main__":
    warnings.simplefilter("ignore", DevelopmentModeWarning)
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
