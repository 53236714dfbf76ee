"""The broker's client at the identity provider of [sign_in]."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stepwrit.jws import SigningKey, TokenRefused
from stepwrit_broker.approvals.oidc import Provider
from stepwrit_broker.config import Config
from stepwrit_broker.config_sign_in import CALLBACK
from stepwrit_broker.core.errors import Malformed


def provider_of(config: Config) -> Provider | None:
    """None where persons have passkeys and keys alone. Raises Malformed for a file that is no good."""
    table = config.sign_in
    if not table.issuer:
        return None
    return Provider(
        issuer=table.issuer,
        client_id=table.client_id,
        redirect_uri=config.issuer + CALLBACK,
        label=table.label or urlsplit(table.issuer).hostname or table.issuer,
        acr=table.acr,
        scopes=table.scopes,
        auth=table.auth,
        secret=_secret(table.secret_file) if table.auth == "client_secret_basic" else "",
        key=_key(table.key_file) if table.auth == "private_key_jwt" else None,
    )


def _secret(path: Path) -> str:
    secret = _own("secret_file", path).decode("utf-8", "replace").strip()
    if not secret:
        raise Malformed("invalid_request", f"sign_in.secret_file: {path} is empty")
    return secret


def _key(path: Path) -> SigningKey:
    try:
        private = load_pem_private_key(_own("key_file", path), None)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            return SigningKey(private)
    except (ValueError, TypeError, TokenRefused):
        pass
    raise Malformed(
        "invalid_request", f"sign_in.key_file: {path} is no P-256 private key without a passphrase"
    )


def _own(setting: str, path: Path) -> bytes:
    """The file's bytes, if not everybody may read them."""
    try:
        if path.stat().st_mode & 0o007:
            raise Malformed("invalid_request", f"sign_in.{setting}: others may read {path}; chmod 600 it")
        return path.read_bytes()
    except OSError as bad:
        raise Malformed(
            "invalid_request", f"sign_in.{setting}: {path} cannot be read ({type(bad).__name__})"
        ) from bad
