"""Other people's programs on our log: a witness that cosigns it, a checker that reads its tiles, a verifier.

litewitness and spicy are FiloSottile's torchwood, fsck is transparency-dev's Tessera.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.fakes.stage import Stage
from tests.rigs.ledgers import Cluster, cluster, pg_ledger

from stepwrit_broker.core.merkle import EMPTY_ROOT, Checkpoint, parse_checkpoint
from stepwrit_broker.core.tiles import Tile, tiles_of
from stepwrit_broker.core.tlog import PROOF_HEAD
from stepwrit_broker.dev.tools import find
from stepwrit_broker.flows.tiles import Tiles
from stepwrit_broker.ledger.cosignature import CosignatureVerifier, cosigned
from stepwrit_broker.ledger.notes import sign_note
from stepwrit_broker.ledger.tiles import LogTiles
from stepwrit_broker.ledger.witness.remote import RemoteWitness
from stepwrit_broker.ports_ledger import Published

pytestmark = pytest.mark.live
__all__ = ["cluster"]
NAME = "litewitness.example/w1"


@contextmanager
def running(command: list[str], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **env})
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(there: Path | int, log: Path) -> None:
    """A file, or a port that listens."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if isinstance(there, Path):
            if there.exists():
                return
        else:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", there)) == 0:
                    return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@contextmanager
def litewitness(folder: Path, vkey: str) -> Iterator[RemoteWitness]:
    """It holds its key in an ssh-agent, and knows our log by its public key."""
    agent, key, port = folder / "agent", folder / "key", free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with running(["ssh-agent", "-D", "-a", str(agent)], folder / "agent.log"):
        wait_for(agent, folder / "agent.log")
        subprocess.run(
            ["ssh-add", "-q", str(key)], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(agent)}
        )
        shown = subprocess.run(
            ["ssh-keygen", "-lf", f"{key}.pub"], check=True, capture_output=True, text=True
        )
        command = [str(find("litewitness")), "-db", str(folder / "w.db"), "-name", NAME, "-listen"]
        command += [f"127.0.0.1:{port}", "-ssh-agent", str(agent), "-key", shown.stdout.split()[1]]
        with running(command, folder / "witness.log"):
            wait_for(port, folder / "witness.log")
            with closing(sqlite3.connect(folder / "w.db")) as db:
                origin = vkey.partition("+")[0]
                root = base64.b64encode(EMPTY_ROOT).decode()
                db.execute("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", (origin, root))
                db.execute("INSERT INTO key (origin, key) VALUES (?, ?)", (origin, vkey))
                db.commit()
            public = base64.b64decode(Path(f"{key}.pub").read_text().split()[1])[-32:]
            verifier = CosignatureVerifier(name=NAME, public=public)
            yield RemoteWitness(url=f"http://127.0.0.1:{port}", verifier=verifier)


async def test_a_foreign_witness_cosigns_and_finds_a_log_that_was_set_back(tmp_path: Path) -> None:
    async with Stage() as stage:
        with litewitness(stage.folder, stage.broker.backing.vkey) as remote:
            stage.tuned["witnesses"] = (remote,)
            await stage.restart()
            for _ in range(3):  # grows, and is cosigned by proof each time
                await stage.held()
                await stage.broker.backing.sign()
                await stage.embedded.witnessing.first()
                published = stage.embedded.witnessing.published()
                assert published is not None
                assert len(cosigned(published.note, [remote.verifier])) == 1
            await stage.stop()
            (stage.folder / "anchor" / "anchor.json").unlink()
            for each in (stage.folder / "store").iterdir():
                each.unlink() if each.is_file() else None
            await stage.start()  # an empty log under the same key: as far back as it goes
            assert "set back" in (stage.embedded.witnessing.contradiction() or "")


async def test_a_foreign_checker_finds_the_tiles_whole(tmp_path: Path) -> None:
    async with Stage() as stage:
        while stage.embedded.ledgering.log.size < 600:  # three bundles, and a tile above them
            (await (await stage.held()).redeem()).ok()
        await stage.broker.backing.sign()
        size = await served(stage, tmp_path)
        assert size >= 600
        key = tmp_path / "log.vkey"
        key.write_text(stage.broker.backing.vkey)
        assert "Successfully fsck'd" in fsck(tmp_path, key)
        other = Checkpoint(origin=stage.embedded.ledgering.key.name, size=size, root=b"\x01" * 32)
        (tmp_path / "checkpoint").write_text(sign_note(other.text(), [stage.embedded.ledgering.key]))
        assert "checkpoint claims" in fsck(tmp_path, key), "it does look"


def test_a_foreign_checker_finds_a_fleets_tiles_whole(cluster: Cluster, tmp_path: Path) -> None:
    with pg_ledger(cluster, tmp_path) as ledger:
        ledger.add(70_000)  # a tile of tiles of tiles
        signed = ledger.sign()
        shown = Published(signed.checkpoint.size, signed.note)
        tiles = Tiles(LogTiles(ledger.source, lambda: shown))
        (tmp_path / "checkpoint").write_text(shown.note)
        for each in with_bundles(shown.size):
            write_tile(tmp_path, each, tiles.content(each) or b"")
    key = tmp_path / "log.vkey"
    key.write_text(ledger.key.verifier.vkey)
    assert "Successfully fsck'd" in fsck(tmp_path, key)
    other = Checkpoint(origin=ledger.key.name, size=shown.size, root=b"\x01" * 32)
    (tmp_path / "checkpoint").write_text(sign_note(other.text(), [ledger.key]))
    assert "checkpoint claims" in fsck(tmp_path, key), "it does look"


def with_bundles(size: int) -> list[Tile]:
    """All tiles of a log, the bundles of entries among them."""
    tiles = list(tiles_of(size))
    return [*tiles, *(Tile(level=None, index=at.index, width=at.width) for at in tiles if at.level == 0)]


def write_tile(folder: Path, tile: Tile, content: bytes) -> None:
    file = folder / "tile" / tile.path()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def fsck(folder: Path, key: Path) -> str:
    """What it says; its exit code is 0 whatever it finds."""
    command = [str(find("fsck")), "--ui=false", f"--storage_url=file://{folder}/", f"--public_key={key}"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stderr


async def served(stage: Stage, folder: Path) -> int:
    """Everything that the operator's face serves, into files of those names."""
    transport = httpx2.AsyncHTTPTransport(uds=str(stage.folder / "admin.sock"))
    async with httpx2.AsyncClient(transport=transport, base_url="http://admin") as http:
        note = (await http.get("/tlog/checkpoint")).text
        (folder / "checkpoint").write_text(note)
        size = parse_checkpoint(note.partition("\n\n")[0] + "\n").size
        for each in with_bundles(size):
            answer = await http.get(f"/tlog/tile/{each.path()}")
            assert answer.status_code == 200, each.path()
            write_tile(folder, each, answer.content)
    return size


async def test_a_foreign_verifier_takes_our_proof(tmp_path: Path) -> None:
    async with Stage() as stage:
        held = await stage.held()
        await stage.broker.backing.sign()
        seq = stage.broker.ledger.of_txn(held.txn)[0].seq
        (made,) = (await stage.admin("GET", f"/v1/admin/ledger/prove/{seq}")).body[""]
        entry = tmp_path / "entry"
        entry.write_bytes(base64.b64decode(made["body"]))
        proof = made["proof"].removeprefix(f"{PROOF_HEAD}\n")  # spicy's files have no first line
        (tmp_path / "entry.spicy").write_text(proof)
        command = [str(find("spicy")), "-verify", stage.broker.backing.vkey, str(entry)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        entry.write_bytes(entry.read_bytes() + b" ")
        assert subprocess.run(command, check=False, capture_output=True).returncode != 0
