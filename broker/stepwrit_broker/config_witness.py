"""witness.toml: the settings of `stepwrit witness run`. Strict, like broker.toml; no environment."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from stepwrit_broker.config_checks import host_port
from stepwrit_broker.config_notices import LOOPBACK
from stepwrit_broker.config_reader import Means, Reader
from stepwrit_broker.core.errors import Malformed

NONE: Final = Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessLog:
    """A log whose checkpoints are cosigned."""

    vkey: Annotated[str, Means(text="The log's public key (`stepwrit ledger key`); its name is the origin.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessConfig:
    """All settings of a witness."""

    name: Annotated[str, Means(text="The witness's name in cosignatures, such as `witness.example/w1`.")]
    key_file: Annotated[Path, Means(text="Its private key, 0600.")] = Path("witness.key")
    state_file: Annotated[Path, Means(text="What it cosigned last of each log. Never restore it.")] = Path(
        "witness.json"
    )
    listen: Annotated[str, Means(text="HOST:PORT for logs; loopback only without tls_cert.")] = (
        "127.0.0.1:8446"
    )
    tls_cert: Annotated[Path, Means(text="Certificate chain, PEM; read again on change.")] = NONE
    tls_key: Annotated[Path, Means(text="Its private key, PEM.")] = NONE
    ops: Annotated[str, Means(text="/metrics, /healthz and /readyz, without TLS.")] = "127.0.0.1:9465"
    log: tuple[WitnessLog, ...] = ()


def load_witness_config(path: Path) -> WitnessConfig:
    """The settings of a file. Raises Malformed(`invalid_request`) that names every problem, one a line."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as bad:
        raise Malformed("invalid_request", f"{path}: cannot be read ({bad})") from bad
    problems: list[str] = []
    made = Reader(path.parent, problems).table(WitnessConfig, table)
    if not problems:
        problems += _meaning(WitnessConfig(**made))
    if problems:
        raise Malformed("invalid_request", "\n".join(f"{path.name}: {each}" for each in problems))
    return WitnessConfig(**made)


def _meaning(config: WitnessConfig) -> Iterator[str]:
    for name, address in (("listen", config.listen), ("ops", config.ops)):
        try:
            host_port(address)
        except ValueError as bad:
            yield f"{name}: {bad}"
            return
    if (config.tls_cert == NONE) != (config.tls_key == NONE):
        yield "tls_cert: needs tls_key, and tls_key needs tls_cert"
    elif config.tls_cert == NONE and host_port(config.listen)[0] not in LOOPBACK:
        yield "listen: without tls_cert only a loopback address; put a proxy that ends TLS in front"
    if not config.log:
        yield "log: name at least one [[log]] with its vkey"
