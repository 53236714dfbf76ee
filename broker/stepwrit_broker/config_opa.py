"""[opa]: the Open Policy Agent that evaluates policies written in Rego."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from stepwrit_broker.config_reader import Means

NONE: Final = Path()
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaTable:
    """The OPA server that evaluates policies written in Rego. Whoever may write its policies decides what
    this broker permits: give it a socket or a token of its own.
    """

    url: Annotated[
        str,
        Means(
            text="`unix:///PATH`, `https://HOST:PORT`, or `http://` on loopback. Empty: none; then Rego is "
            "refused."
        ),
    ] = ""
    ca_file: Annotated[Path, Means(text="For https: a private CA, PEM. Empty: the CAs of this system.")] = (
        NONE
    )
    token_file: Annotated[
        Path, Means(text="A file with the bearer token that OPA wants; read at start. Empty: none.")
    ] = NONE
    timeout_ms: Annotated[
        int, Means(text="How long one decision may take, all in all.", unit="milliseconds", least=1)
    ] = 200
    rehearsal_url: Annotated[
        str,
        Means(
            text="Another OPA, for policies that are not in force (`policy shadow`, `policy impact`): a slow "
            "one takes its time there. Same files and times. Empty: `url`."
        ),
    ] = ""
    breaker_failures: Annotated[
        int, Means(text="After so many failures in a row OPA is not asked for a while.", least=1)
    ] = 5
    breaker_open_s: Annotated[
        float, Means(text="For so long; then one question is let through.", unit="seconds", least=0.1)
    ] = 1.0


def opa_problems(opa: OpaTable) -> Iterator[str]:
    """Every problem of meaning, one a line."""
    if not math.isfinite(opa.breaker_open_s):
        yield "opa.breaker_open_s: must be finite"
    if opa.url and not _is_good(opa.url):
        yield "opa.url: must be unix:///PATH, or an https URL (http only for loopback) of host and port alone"
    if not opa.url.startswith("https://") and opa.ca_file != NONE:
        yield "opa.ca_file: is for an https url"
    if opa.rehearsal_url and not opa.url:
        yield "opa.rehearsal_url: needs opa.url, where what is in force is evaluated"
    if opa.rehearsal_url and not _is_good(opa.rehearsal_url):
        yield "opa.rehearsal_url: must be as opa.url"


def _is_good(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    bare = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme == "unix":
        return bare and not parts.netloc and len(parts.path) > 1
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    return safe and bare and bool(parts.hostname) and parts.path in {"", "/"}
