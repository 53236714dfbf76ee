"""HAProxy and nginx as Debian ships them, on the files of deploy/proxy: only addresses and paths change."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.fakes.hop import authority
from tests.fakes.pki import write_pem
from tests.fakes.stage import Stage, spiffe

from stepwrit_broker.core.workload import ForwardedSource, Proxy, SpiffeId

FILES = Path(__file__).parents[3] / "deploy" / "proxy"
ID = SpiffeId(spiffe("edge/proxy"))
Kind = Literal["haproxy", "nginx"]
SOURCES: dict[Kind, ForwardedSource] = {"haproxy": "client-cert", "nginx": "xfcc"}
PACKAGES: dict[Kind, str] = {"haproxy": "haproxy", "nginx": "nginx-light"}


def proxy(kind: Kind) -> Proxy:
    return Proxy(id=ID, source=SOURCES[kind])


def listening() -> socket.socket:
    """A port of our own, bound before anybody has to know it, inherited by the proxy."""
    bound = socket.create_server(("127.0.0.1", 0))
    bound.set_inheritable(True)
    return bound


@dataclass(kw_only=True)
class Running:
    """A proxy in front of the stage's broker."""

    kind: Kind
    bound: socket.socket
    process: subprocess.Popen[bytes]
    said: Path

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.bound.getsockname()
        return host, port

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.bound.close()


def start(
    kind: Kind, stage: Stage, bound: socket.socket, *, name: str = "broker.internal", svid: str = ID
) -> Running:
    """name: of the broker, as the proxy demands it. svid: the SPIFFE ID with which it comes."""
    folder = stage.folder / f"{kind}-{bound.getsockname()[1]}"
    folder.mkdir()
    _files(stage, folder, svid)
    config = folder / "proxy.conf"
    config.write_text(_rendered(kind, stage, folder, bound, name))
    program, said = _program(kind), folder / "said"
    _check(kind, [*_COMMAND[kind](program, config, folder), *_CHECK[kind]], folder)
    with said.open("wb") as out:
        process = subprocess.Popen(
            _COMMAND[kind](program, config, folder),
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(bound.fileno(),),
            env={**os.environ, **({"NGINX": f"{bound.fileno()};"} if kind == "nginx" else {})},
        )
    running = Running(kind=kind, bound=bound, process=process, said=said)
    _wait(running)
    return running


_COMMAND = {
    "haproxy": lambda program, config, _: [program, "-db", "-f", str(config)],
    "nginx": lambda program, config, folder: [
        program, "-p", str(folder), "-c", str(config), "-g", "daemon off;"
    ],
}  # fmt: skip
_CHECK: dict[Kind, list[str]] = {"haproxy": ["-c"], "nginx": ["-t"]}


def _program(kind: Kind) -> str:
    found = shutil.which(kind, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.fail(f"{kind} is not here; the live tests need it: apt-get install {PACKAGES[kind]}")
    return found


def _files(stage: Stage, folder: Path, svid: str) -> None:
    certificate, key = write_pem(authority(stage).issue(svid), folder)
    both = folder / "svid.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    both.chmod(0o600)
    roots = [x509.load_der_x509_certificate(der) for der in stage.trust.ca.authorities]
    (folder / "bundle.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in roots))


def _rendered(kind: Kind, stage: Stage, folder: Path, bound: socket.socket, name: str) -> str:
    text = (FILES / ("haproxy.cfg" if kind == "haproxy" else "nginx.conf")).read_text()
    host, port = stage.broker.mtls.address
    changes = {
        "broker.internal:8443": f"{host}:{port}",
        "broker.internal": name,
        "/run/spiffe/svid-key.pem": str(folder / "tls.key"),
        "/run/spiffe/": f"{folder}/",
        **(
            {"bind :8443": f"bind fd@{bound.fileno()}"}
            if kind == "haproxy"
            else {
                "listen 8443": f"listen 127.0.0.1:{bound.getsockname()[1]}",
                "/run/nginx-stepwrit.pid": str(folder / "pid"),
            }
        ),
    }
    if kind == "haproxy":
        del changes["/run/spiffe/svid-key.pem"]  # it takes both from one file
    for old, new in changes.items():
        assert old in text, f"{old} is not in the {kind} file any more"
        text = text.replace(old, new)
    return text


def _check(kind: Kind, command: list[str], folder: Path) -> None:
    """The program's own check of the file; nginx's needs no inherited socket."""
    if kind == "haproxy":
        return  # its check wants the descriptor too; a faulty file ends the start
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "still could not bind" in done.stderr, done.stderr


def _wait(running: Running) -> None:
    for _ in range(500):
        if running.process.poll() is not None:
            pytest.fail(f"{running.kind} did not start: {running.said.read_text()}")
        try:
            with socket.create_connection(running.address, 0.1):
                return
        except OSError:
            time.sleep(0.02)
    running.stop()
    pytest.fail(f"{running.kind} does not listen: {running.said.read_text()}")
