"""Base64 that has one spelling: what a proxy forwards is compared and cached by its bytes."""

from __future__ import annotations

from base64 import b64encode
from binascii import Error as NotBase64
from binascii import a2b_base64


def canonical_base64(text: bytes) -> bytes:
    """The bytes of canonical base64 (RFC 4648 sections 3.5 and 4). Raises ValueError for any other."""
    try:
        read = a2b_base64(text, strict_mode=True)
    except NotBase64 as bad:
        raise ValueError("not base64") from bad
    if b64encode(read) != text:
        raise ValueError("not canonical base64")
    return read
