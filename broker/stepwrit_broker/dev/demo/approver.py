"""Alice, who signs with a key of her own, by the real `stepwrit approve`; the operator has registered it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from stepwrit_broker.core.statement import APPROVAL, read_statement
from stepwrit_broker.dev.demo.stage import Stage

WAIT_S = 120.0  # a busy machine is slow, not wrong


class Approver:
    """One person of the development issuer, and a P-256 key in a file."""

    def __init__(self, stage: Stage, folder: Path, subject: str) -> None:
        self._stage, self._subject = stage, subject
        self._key, self._ca = folder / "alice.pem", folder / "tls.crt"

    async def register(self) -> None:
        """The key is made, and the operator puts it on record as hers."""
        key = ec.generate_private_key(ec.SECP256R1())
        descriptor = os.open(self._key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        body = {
            "issuer": self._stage.dev.issuer.url,
            "subject": self._subject,
            "key": public,
            "label": "demo",
            "reason": "the demo's operator saw her key",
        }
        async with self._stage.admin() as http:
            (await http.post("/v1/admin/authenticators", json=body)).raise_for_status()

    async def read(self, page: str) -> tuple[str, list[str]]:
        """The digest of what would be signed, and the text that she is shown."""
        document, shown = await self._run("approve", page, "--print")
        lines = [line.strip() for line in shown.splitlines() if line.startswith("  ") and line.strip()]
        return str(read_statement(APPROVAL, document.encode())["digest"]), lines

    async def sign(self, page: str, digest: str) -> str:
        """She signs what she has read: the state of the approval afterwards."""
        answer, _ = await self._run("approve", page, "--yes", "--digest", digest, "--json")
        return str(json.loads(answer)["state"])

    async def _run(self, *words: str) -> tuple[str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stepwrit_broker.cli",
            *words,
            "--key",
            str(self._key),
            "--ca",
            str(self._ca),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
        if process.returncode != 0:
            raise RuntimeError(f"stepwrit {words[0]}: {err.decode()}")
        return out.decode(), err.decode()
