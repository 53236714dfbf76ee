"""A Debian machine's /etc, /var/lib and /run in a folder, for a how-to's own commands.

    machine = Machine(tmp_path, ports=(8443, 6379), words={"prod.example": "faults.test"})
    await machine.run("# systemctl restart redis-server")

Commands run in bash as they stand, with other ports and paths. Stand-ins: `systemctl` starts what the unit
says and remembers the process; `sudo`, `chown` and the owners of `install` are left out, since one user has
all of it; `apt-get` installs nothing, and a program that is missing fails the test.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from pathlib import Path

from stepwrit_broker.dev.ports import steady_port

REPO = Path(__file__).parents[2]
FOLDERS = (
    "/etc/stepwrit", "/etc/redis", "/etc/haproxy", "/etc/systemd/system", "/var/lib/stepwrit",
    "/var/lib/redis", "/run/stepwrit",
)  # fmt: skip
PROGRAMS = ("redis-server", "haproxy", "psql", "curl", "openssl", "bash")
ROOTS = re.compile(r"^ +(?:user|group|chroot) .*\n", re.MULTILINE)  # of haproxy.cfg: only root may
SUDO = """#!/bin/bash
while :; do case "$1" in -u) shift 2;; -E) shift;; *) break;; esac; done
exec "$@"
"""
INSTALL = """#!/bin/bash
words=()
while [ $# -gt 0 ]; do case "$1" in -o|-g) shift 2;; *) words+=("$1"); shift;; esac; done
exec /usr/bin/install "${words[@]}"
"""
NOTHING = "#!/bin/bash\n"
SYSTEMCTL = '''#!{python}
"""start, stop, restart, enable --now, disable --now, kill -s: of the units of this machine."""
import os, re, shlex, signal, socket, subprocess, sys, time
from pathlib import Path

HOME, PIDS = Path("{home}"), Path("{home}/pids")
FIXED = {{
    "redis-server": "redis-server {home}/etc/redis/redis.conf",
    "haproxy": "haproxy -db -f {home}/etc/haproxy/haproxy.cfg",
}}

def unit(name):
    if name in FIXED:
        return FIXED[name], {{}}
    stem, at, instance = name.partition("@")
    text = (HOME / "etc/systemd/system" / f"{{stem}}{{at}}.service").read_text()
    lines = text.replace("%i", instance).splitlines()
    said = dict(each.split("=", 1) for each in lines if "=" in each and not each.startswith("#"))
    env = {{}}
    if "EnvironmentFile" in said:
        text = Path(said["EnvironmentFile"]).read_text()
        env = dict(each.split("=", 1) for each in text.splitlines() if each and not each.startswith("#"))
    for folder in said.get("RuntimeDirectory", "").split():
        (HOME / "run" / folder).mkdir(parents=True, exist_ok=True)
    return said["ExecStart"], env

def pid(name):
    try:
        return int((PIDS / name).read_text())
    except FileNotFoundError:
        return 0

def alive(number):
    try:
        return Path(f"/proc/{{number}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

def start(name):
    command, env = unit(name)
    with open(HOME / "log" / name, "ab") as log:
        made = subprocess.Popen(shlex.split(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                start_new_session=True, env=os.environ | env)
    (PIDS / name).write_text(str(made.pid))
    for port in re.findall(r"(?m)^\\s*(?:port |bind :)(\\d+)", conf(name)):
        while socket.socket().connect_ex(("127.0.0.1", int(port))):
            if made.poll() is not None:
                sys.exit((HOME / "log" / name).read_text())
            time.sleep(0.05)

def conf(name):
    paths = {{"redis-server": HOME / "etc/redis/redis.conf", "haproxy": HOME / "etc/haproxy/haproxy.cfg"}}
    return paths[name].read_text() if name in paths else ""

def stop(name, number=signal.SIGTERM):
    found = pid(name)
    if found and alive(found):
        os.kill(found, number)
        while alive(found):
            time.sleep(0.05)

verb, *rest = sys.argv[1:]
number = signal.SIGTERM
if "-s" in rest:
    at = rest.index("-s")
    number = signal.Signals["SIG" + rest[at + 1]]
    del rest[at:at + 2]
for name in [each for each in rest if not each.startswith("-")]:
    if verb in ("stop", "restart", "disable", "kill"):
        stop(name, number)
    if verb in ("start", "restart", "enable") or verb == "kill":  # Restart=on-failure
        start(name)
'''


class Machine:
    """Paths below `home`; ports of its own. words: what else is called otherwise here."""

    def __init__(self, home: Path, *, ports: tuple[int, ...], words: dict[str, str]) -> None:
        self.home = home
        self.ports = {each: steady_port() for each in ports}
        self._words = {
            **{folder: f"{home}{folder}" for folder in FOLDERS},
            "/usr/local/bin/stepwrit": str(Path(sys.executable).with_name("stepwrit")),
            "/path/to/stepwrit": str(home / "checkout"),
            **words,
        }
        self.env: dict[str, str] = {}
        for each in PROGRAMS:
            assert shutil.which(each), (
                f"{each} is missing: apt-get install redis-server haproxy postgresql curl"
            )
        self._furnish()

    def _furnish(self) -> None:
        for each in (*FOLDERS, "/bin", "/pids", "/log"):
            Path(f"{self.home}{each}").mkdir(parents=True, exist_ok=True)
        stand_ins = {
            "sudo": SUDO,
            "install": INSTALL,
            "chown": NOTHING,
            "apt-get": NOTHING,
            "systemctl": SYSTEMCTL.format(python=sys.executable, home=self.home),
        }
        for name, text in stand_ins.items():
            path = self.home / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        for path in (REPO / "deploy").rglob("*"):
            if path.is_file() and path.parent.name in ("fleet", "systemd"):
                there = self.home / "checkout" / path.relative_to(REPO)
                there.parent.mkdir(parents=True, exist_ok=True)
                text = self.here(path.read_text())
                there.write_text(text if os.geteuid() == 0 else ROOTS.sub("", text))

    def path(self, text: str) -> Path:
        """Where a path of the machine is."""
        return Path(f"{self.home}{text}")

    def here(self, text: str) -> str:
        """With the ports, paths and names of here."""
        text = re.sub(
            r"(?<![\d.])\d{4}(?!\d)", lambda found: str(self.ports.get(int(found[0]), found[0])), text
        )
        for word, other in self._words.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(word)}", other, text)
        return text

    async def run(self, script: str, within_s: float = 120.0) -> str:
        """What it printed, on both channels. A command that fails, fails the test."""
        env = {
            **os.environ,
            "PATH": f"{self.home}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
            "NO_COLOR": "1",
            "COLUMNS": "300",
            **self.env,
        }
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", self.here(script),
            cwd=self.home / "checkout", env=env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            out, _ = await asyncio.wait_for(process.communicate(), within_s)
        except TimeoutError:
            process.kill()
            raise AssertionError(f"no end within {within_s} s:\n{script}\n{self.last_words()}") from None
        assert process.returncode == 0, f"{script}\n{out.decode()}\n{self.last_words()}"
        return out.decode()

    def last_words(self) -> str:
        """The ends of all logs."""
        logs = sorted((self.home / "log").iterdir())
        return "\n".join(f"--- {each.name}\n{each.read_text(errors='replace')[-1500:]}" for each in logs)

    def end(self) -> None:
        """Every process that a unit started."""
        for each in (self.home / "pids").iterdir():
            try:
                os.kill(int(each.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue
