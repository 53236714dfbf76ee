"""Processes of one story: a development broker, a bank, a redis-server, workers; all on one clock that jumps.

Time passes by ending all of them and starting them again under libfaketime with a later clock; what is left
in between is what is durable: the broker's store and the queue.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import redis

from stepwrit_broker.dev.ports import steady_port
from stepwrit_broker.ledger.view import SqliteLedgerView

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs/how-to/async-jobs.md"
FAKETIME: Final = next(map(str, Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), "")
WAIT_S: Final = 90.0  # until something that must come is given up
BIN: Final = Path(sys.executable).parent


def programs() -> dict[str, str]:
    """The page's Python files, by the name in their first line."""
    found = re.findall(r"^```python\n(# (\w+\.py).*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {name: text for text, name in found}


def commands() -> list[list[str]]:
    """The page's commands that run workers."""
    return [line.split() for line in re.findall(r"^```sh\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE)]


class World:
    """One story. folder: short, sockets lie in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code, self.hours = folder, folder / "code", 0.0
        self.bank_url = f"http://127.0.0.1:{steady_port()}"
        self.queue_port = steady_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kinds: dict[str, tuple[str, str]] = {}
        self.code.mkdir()
        for name, text in programs().items():
            (self.code / name).write_text(text)
        (folder / "go").write_text("go")

    # --- processes

    def start(self) -> None:
        """The queue, the broker, the bank."""
        self.start_queue()
        self.start_broker()
        self.start_bank()

    def start_queue(self) -> None:
        at = self.folder / "redis"
        at.mkdir()
        command = ["redis-server", "--port", str(self.queue_port), "--bind", "127.0.0.1", "--dir", str(at)]
        self._spawn("redis", [*command, "--save", "", "--appendonly", "yes"], {}, faked=False)
        link = redis.Redis(port=self.queue_port)
        self.until(lambda: _pings(link), "redis answers")
        link.close()

    def start_broker(self) -> None:
        (self.folder / "up").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.live.queues.house", str(self.folder), self.bank_url]
        self._spawn("broker", command, {})
        self.until((self.folder / "up").exists, "the broker is up")

    def start_bank(self) -> None:
        command = [sys.executable, "-m", "tests.live.queues.bank", str(self.folder)]
        self._spawn("bank", command, self.identity("bank"))
        self.until(lambda: _listens(self.bank_url), "the bank answers")

    def start_worker(self, kind: str, who: str = "worker/1", name: str = "worker") -> None:
        """A worker of the page, by the page's own command."""
        self.kinds[name] = (kind, who)
        (command,) = [each for each in commands() if each[0] == kind]
        ready = self.log(name).read_text().count("ready") if self.log(name).exists() else 0
        self._spawn(name, [str(BIN / command[0]), *command[1:]], self.identity(who))
        self.until(lambda: self.log(name).read_text().count("ready") > ready, f"{name} is ready")

    def kill(self, name: str) -> None:
        """At once, with all that it started."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def later(self, hours: float) -> None:
        """So many hours pass: everything that runs here but the queue is killed, and starts again."""
        running = [name for name in self.processes if name != "redis"]
        for name in running:
            self.kill(name)
        self.hours += hours
        self.start_broker()
        self.start_bank()
        for name in running:
            if name in self.kinds:
                self.start_worker(*self.kinds[name], name)

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def identity(self, who: str) -> dict[str, str]:
        """What a process needs to be this workload."""
        dev = self.dev()
        return {
            "SPIFFE_ENDPOINT_SOCKET": f"unix://{dev['sockets']}/{who}.sock",
            "STEPWRIT_BROKER": dev["broker"],
            "STEPWRIT_BROKER_ID": dev["broker_id"],
        }

    def dev(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "dev.json").read_text())
        return found

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def env(self, more: Mapping[str, str], *, faked: bool = True) -> dict[str, str]:
        shift = (
            {"LD_PRELOAD": FAKETIME, "FAKETIME": f"+{self.hours * 3600:.0f}s"} if faked and self.hours else {}
        )
        return {
            **os.environ,
            "PYTHONPATH": f"{self.code}:{ROOT}",
            "BANK": self.bank_url,
            "QUEUE": f"redis://127.0.0.1:{self.queue_port}/0",
            "AGAIN_S": "1",
            **more,
            **shift,
        }

    def _spawn(self, name: str, command: list[str], more: Mapping[str, str], *, faked: bool = True) -> None:
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.env(more, faked=faked),
                cwd=self.code if name.startswith("worker") else ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for what must come."""
        end = time.monotonic() + WAIT_S
        while not ready():
            dead = {name: each.returncode for name, each in self.processes.items() if each.poll() is not None}
            if dead or time.monotonic() > end:
                raise AssertionError(f"{what}: did not come; ended: {dead}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(f"--- {each.name}\n{each.read_text()[-3000:]}" for each in self.folder.glob("*.log"))

    # --- what people and programs do

    def run(self, program: str, who: str, *args: str, **more: str) -> str:
        """A program of the page, to its end; its last line."""
        done = subprocess.run(
            [sys.executable, str(self.code / program), *args],
            env=self.env({**self.identity(who), **more}),
            cwd=self.code,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout.strip().rpartition("\n")[2]

    def ask(self, month: str = "2026-05") -> str:
        """An agent defers a job for a person; the job's id."""
        minted = httpx2.post(f"{self.dev()['oidc']}/mint", json={"sub": "dev-person"}).json()
        return self.run("ask.py", "agent/dev", minted["id_token"], month)

    def enqueue(self, kind: str, step: str) -> None:
        code = f"import {kind}_jobs as j; j.archive.{'delay' if kind == 'celery' else 'send'}({step!r})"
        subprocess.run(
            [sys.executable, "-c", code], env=self.env({}), cwd=self.code, check=True, timeout=WAIT_S
        )

    def cli(self, *command: str, ask: bool = True) -> str:
        """The operator, on the admin socket; ask=False: without the broker."""
        admin = ["--admin", str(self.folder / "admin.sock")] if ask else []
        done = subprocess.run(
            [str(BIN / "stepwrit"), *command, *admin],
            env=self.env({}),
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def verify_ledger(self) -> None:
        """Whole, and signed by the broker's key; fails otherwise."""
        key, at = self.cli("ledger", "key").split()[-1], str(self.folder / "store" / "stepwrit.db")
        self.cli("ledger", "verify", "--db", at, "--key", key, ask=False)

    def edit(self, name: str, old: str, new: str, reason: str) -> None:
        """The operator changes a file of the broker's and puts it in force."""
        path = self.folder / name
        text = path.read_text()
        assert old in text, text
        path.write_text(text.replace(old, new))
        kind = name.partition(".")[0].partition("/")[0]
        self.cli(kind, "apply", str(self.folder / name.partition("/")[0]), "--reason", reason)

    # --- what is on record

    def entries(self, *kinds: str) -> list[Mapping[str, Any]]:
        view = SqliteLedgerView(self.folder / "store" / "stepwrit.db")
        try:
            return [each.facts or {} for each in view.tail(-1, 10_000, kinds, None)]
        finally:
            view.close()

    def of(self, step: str, *kinds: str) -> list[Mapping[str, Any]]:
        return [each for each in self.entries(*kinds) if each.get("step") == step]

    def refusals(self, step: str) -> list[str]:
        return [str(each["code"]) for each in self.of(step, "refused") if each["verb"] == "resume"]

    def requester(self, step: str) -> str:
        """The target of a mark on whoever wanted it, as the story of the step shows it."""
        txn = self.of(step, "step.opened")[0]["txn"]
        told = json.loads(self.cli("explain", str(txn), "--json"))
        kept = told["decisions"][told["steps"][0]["decision"]]
        return f"requester:{kept['document']['requester']['id']}"

    def until_closed(self, step: str, outcome: str = "done") -> None:
        self.until(lambda: bool(self.of(step, "step.closed")), f"{step} is closed")
        assert self.of(step, "step.closed")[0]["outcome"] == outcome, self.logs()

    def until_refused(self, step: str, code: str) -> None:
        self.until(lambda: code in self.refusals(step), f"{step} is refused as {code}")

    def hits(self) -> list[Any]:
        """What the bank was asked to archive."""
        path = self.folder / "hits"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["args"] for line in lines]

    def hold(self) -> None:
        """From now on the bank does not answer."""
        (self.folder / "go").unlink()

    def go_on(self) -> None:
        (self.folder / "go").write_text("go")


def check_tools() -> None:
    """Raises AssertionError naming what is missing: a live suite fails, it does not skip."""
    missing = [] if shutil.which("redis-server") else ["redis-server"]
    missing += [] if FAKETIME else ["faketime"]
    assert not missing, f"apt-get install {' '.join(missing)}"


def _pings(link: redis.Redis) -> bool:
    try:
        return bool(link.ping())
    except redis.ConnectionError:
        return False


def _listens(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code > 0
    except httpx2.RequestError:
        return False
