"""[sign_in] as the broker takes it up: the secret and the key come from files, and are shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.fakes.approver import new_key

from stepwrit_broker.approvals.oidc import Provider
from stepwrit_broker.config import parse_config
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.wiring.signing_in import provider_of

TEXT = """\
trust_domain = "prod.example"
issuer = "https://broker.prod.example:8444"
[[oidc]]
issuer = "https://login.example"
[sign_in]
issuer = "https://login.example"
client_id = "pages"
"""


def provider(folder: Path, more: str = "") -> Provider:
    made = provider_of(parse_config(TEXT + more, name="broker.toml", folder=folder, env={}))
    assert made is not None
    return made


def own(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_nothing_said_is_nowhere() -> None:
    least = TEXT.partition("[[oidc]]")[0]
    assert provider_of(parse_config(least, name="broker.toml", folder=Path("/"), env={})) is None


def test_the_redirect_uri_is_below_the_issuer_and_the_label_has_a_default(tmp_path: Path) -> None:
    made = provider(tmp_path)
    assert made.redirect_uri == "https://broker.prod.example:8444/sign-in/oidc/callback"
    assert (made.label, made.auth, made.secret, made.key) == ("login.example", "none", "", None)
    assert provider(tmp_path, 'label = "Example ID"\n').label == "Example ID"


def test_a_secret_and_a_key_are_read_once_and_never_shown(tmp_path: Path) -> None:
    own(tmp_path / "secret", b"s3cret\n")
    basic = provider(tmp_path, 'auth = "client_secret_basic"\nsecret_file = "secret"\n')
    assert basic.secret == "s3cret"
    assert "s3cret" not in repr(basic)
    own(tmp_path / "key.pem", pem(ec.generate_private_key(ec.SECP256R1())))
    assert provider(tmp_path, 'auth = "private_key_jwt"\nkey_file = "key.pem"\n').key is not None


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"s3cret", 0o644, "others may read"),
        (b"s3cret", 0o604, "others may read"),
        (b"", 0o600, "is empty"),
        (b" \n", 0o600, "is empty"),
        (None, 0, "cannot be read (FileNotFoundError)"),
    ],
)
def test_a_secret_that_is_none_is_refused(
    tmp_path: Path, content: bytes | None, mode: int, said: str
) -> None:
    if content is not None:
        own(tmp_path / "secret", content, mode)
    with pytest.raises(Malformed) as refused:
        provider(tmp_path, 'auth = "client_secret_basic"\nsecret_file = "secret"\n')
    assert said in refused.value.reason
    assert "s3cret" not in refused.value.reason


@pytest.mark.parametrize("kind", ["ed25519", "p384", "text"])
def test_a_key_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    other = {"ed25519": new_key(), "p384": ec.generate_private_key(ec.SECP384R1())}
    own(tmp_path / "key.pem", b"hello" if kind == "text" else pem(other[kind]))  # type: ignore[arg-type]
    with pytest.raises(Malformed, match="is no P-256 private key"):
        provider(tmp_path, 'auth = "private_key_jwt"\nkey_file = "key.pem"\n')
