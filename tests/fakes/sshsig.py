"""What `ssh-keygen -Y sign` does, for tests where it is not installed; the live tests have the real one."""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _mpint(number: int) -> bytes:
    return _string(number.to_bytes(number.bit_length() // 8 + 1))


def armored(private: object, namespace: str, said: bytes) -> str:
    """An armored signature over `said`. Source: OpenSSH PROTOCOL.sshsig."""
    parts = (namespace.encode(), b"", b"sha512", hashlib.sha512(said).digest())
    signed = b"SSHSIG" + b"".join(_string(each) for each in parts)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        kind, signature = b"ssh-ed25519", private.sign(signed)
    else:
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(SHA256())))
        kind, signature = b"ecdsa-sha2-nistp256", _mpint(r) + _mpint(s)
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    key = base64.b64decode(line.split()[1])
    body = (key, namespace.encode(), b"", b"sha512", _string(kind) + _string(signature))
    blob = b"SSHSIG" + (1).to_bytes(4) + b"".join(_string(each) for each in body)
    text = base64.encodebytes(blob).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{text}-----END SSH SIGNATURE-----\n"


def sign(held: str, namespace: str) -> None:
    """From standard input to standard output, with the key in the file `held`; 255 where there is none."""
    if not Path(held).exists():
        sys.exit(255)
    private = load_ssh_private_key(Path(held).read_bytes(), None)
    sys.stdout.write(armored(private, namespace, sys.stdin.buffer.read()))
