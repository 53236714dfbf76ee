"""An approver's own key on their own machine: a file, or whatever `ssh-keygen` reaches.

That is ssh-agent, a token, or a file with a passphrase, for which `ssh-keygen` asks by itself: none goes
through here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from stepwrit.errors import ConfigurationError
from stepwrit_broker.approvals.keys import jwk_of, read_key
from stepwrit_broker.approvals.sshsig import dearmored
from stepwrit_broker.core.authenticator import key_id
from stepwrit_broker.core.statement import Purpose

USUAL: Final = ("id_ed25519", "id_ecdsa")
_OPENSSH: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_ES256: Final = ec.ECDSA(SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproverKey:
    """A key that signs. id: as the broker knows it. sign: a purpose and a statement to a signature."""

    id: str
    where: Path
    sign: Callable[[Purpose, bytes], bytes] = field(repr=False)


def usual_key() -> Path:
    """The first of the SSH keys that people have. Raises ConfigurationError."""
    folder = Path.home() / ".ssh"
    found = next((folder / name for name in USUAL if (folder / name).exists()), None)
    if found is None:
        raise ConfigurationError(f"no key in {folder} ({', '.join(USUAL)}): give --key FILE")
    return found


def load_key(path: Path) -> ApproverKey:
    """A private key's file; a public key's (`.pub`), whose private part ssh-agent or a token holds.

    Raises ConfigurationError, OSError.
    """
    raw = path.read_bytes()
    if b"PRIVATE KEY" not in raw:
        return _by_ssh(path, path)
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(f"{path}: others may read this private key; chmod 600 it")
    private = _private(path, raw)
    return _by_ssh(path, Path(f"{path}.pub")) if private is None else _by_file(path, private)


def _private(path: Path, raw: bytes) -> object | None:
    """The key; None for an OpenSSH one with a passphrase."""
    load = load_ssh_private_key if raw.startswith(_OPENSSH) else load_pem_private_key
    try:
        return load(raw, None)
    except TypeError:
        if load is load_pem_private_key:
            raise ConfigurationError(
                f"{path}: has a passphrase, which is never asked for here; use an SSH key in ssh-agent"
            ) from None
        return None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path}: not a private key that can be read") from None


def _by_file(path: Path, private: object) -> ApproverKey:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        ours = private
        return ApproverKey(
            id=key_id(jwk_of(ours.public_key())), where=path, sign=lambda _, said: ours.sign(said)
        )
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        return ApproverKey(
            id=key_id(jwk_of(private.public_key())), where=path, sign=lambda _, said: _es256(private, said)
        )
    raise ConfigurationError(f"{path}: neither an Ed25519 nor a P-256 key")


def _es256(private: ec.EllipticCurvePrivateKey, said: bytes) -> bytes:
    r, s = decode_dss_signature(private.sign(said, _ES256))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _by_ssh(path: Path, public: Path) -> ApproverKey:
    try:
        name = key_id(read_key(public.read_text("utf-8")))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: has a passphrase, and {public} is not there to say which it is"
        ) from None
    return ApproverKey(id=name, where=path, sign=lambda purpose, said: _ssh_signature(path, purpose, said))


def _ssh_signature(path: Path, purpose: Purpose, said: bytes) -> bytes:
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(path), "-n", purpose]
    try:
        done = subprocess.run(command, input=said, stdout=subprocess.PIPE, check=False, env=os.environ)  # noqa: S603
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: needs ssh-keygen, which is not here") from None
    if done.returncode != 0:
        raise ConfigurationError(f"{path}: ssh-keygen did not sign (it said why above)")
    return dearmored(done.stdout.decode("ascii"))
