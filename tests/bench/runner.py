"""The process under test: a real broker, or the floor (constants over the same TLS), on one core.

Started by the bench as `python -m tests.bench.runner SETTINGS.json`. One JSON line on stdout says where it
listens; then one JSON line answers each line on stdin: `usage`, `crypto`, `stop`. End of stdin stops it.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from stepwrit.identity import WorkloadIdentity
from stepwrit_broker.attest.person import Issuer
from stepwrit_broker.edge.listeners import mtls_listener
from stepwrit_broker.wiring.broker import Broker
from stepwrit_broker.wiring.settings import Address, BrokerSettings

Answers = dict[str, tuple[int, bytes]]
_ES256 = ec.ECDSA(SHA256())
_LOOPBACK = Address(host="127.0.0.1", port=0)


def broker_settings(given: dict[str, Any]) -> BrokerSettings:
    """The broker's settings; only what has to differ from a production broker does."""
    folder = Path(given["folder"])
    return BrokerSettings(
        trust_domain=given["trust_domain"],
        issuer="https://broker.bench.example",
        broker_id=given["broker_id"],
        spiffe_socket=given["socket"],
        store_path=folder / "store" / "stepwrit.db",
        anchor_path=folder / "anchor" / "anchor.json",
        ledger_key=folder / "ledger.key",
        ledger_origin=f"{given['trust_domain']}/bench",
        registry=folder / "registry.yaml",
        limits=folder / "limits.yaml",
        policy=folder / "policy",
        mtls=_LOOPBACK,
        ops=_LOOPBACK,
        admin=folder / "admin.sock",
        oidc=(Issuer(issuer=given["oidc"], algorithms=("ES256",)),),
    )


class Constants:
    """The floor's application: reads the body, answers what the broker once answered to such a call."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        status, raw = self._answers[verb_of(scope["path"])]
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(raw)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": raw})


def verb_of(path: str) -> str:
    """Which of the five calls this path is."""
    if path == "/v1/steps":
        return "open"
    return "credential" if path == "/oauth/token" else path.rpartition("/")[2]


def crypto_us(rounds: int = 300, tries: int = 7) -> dict[str, float]:
    """CPU microseconds of one ES256 signature and one verification, medians, over a claims-sized message."""
    key = ec.generate_private_key(ec.SECP256R1())
    public, text = key.public_key(), b"x" * 600
    signed = key.sign(text, _ES256)
    return {
        "sign": _each_us(lambda: key.sign(text, _ES256), rounds, tries),
        "verify": _each_us(lambda: public.verify(signed, text, _ES256), rounds, tries),
    }


def _each_us(deed: Callable[[], object], rounds: int, tries: int) -> float:
    took: list[float] = []
    for _ in range(tries):
        began = time.thread_time()
        for _ in range(rounds):
            deed()
        took.append((time.thread_time() - began) / rounds * 1e6)
    return sorted(took)[tries // 2]


def usage() -> dict[str, float]:
    """CPU seconds (user and system, all threads) and resident bytes of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"user": used.ru_utime, "system": used.ru_stime, "rss": _resident(used.ru_maxrss)}


def _resident(highest: int) -> int:
    """VmRSS; where there is no /proc, the highest so far (macOS counts that in bytes)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return highest if sys.platform == "darwin" else highest * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


async def _obey(ready: dict[str, str]) -> None:
    """Say where we are, then answer until told to stop."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say(ready)
    while (line := (await reader.readline()).decode().strip()) and line != "stop":
        _say({"usage": usage, "crypto": crypto_us}[line]())


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


async def _broker(given: dict[str, Any]) -> None:
    async with Broker(broker_settings(given)) as broker:
        await _obey({"url": broker.mtls_url, "ops": broker.ops.url})


async def _floor(given: dict[str, Any]) -> None:
    identity = WorkloadIdentity(given["socket"])
    await identity.start()
    await identity.wait_ready(30.0)
    listener = mtls_listener("127.0.0.1", 0, identity)
    answers = {verb: (status, raw.encode()) for verb, (status, raw) in given["answers"].items()}
    await listener.start(Constants(answers))
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)  # as the broker sets it
    await _obey({"url": listener.url})
    await listener.stop()
    await identity.close()


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if given["core"] is not None:
        os.sched_setaffinity(0, {given["core"]})
    level = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=level, logger_factory=structlog.WriteLoggerFactory(file=sys.stderr))
    work = _floor(given) if "answers" in given else _broker(given)
    if given.get("profile"):
        profile = cProfile.Profile()
        profile.runcall(uvloop.run, work)
        profile.dump_stats(given["profile"])
    else:
        uvloop.run(work)


if __name__ == "__main__":
    main()
