"""Loopback ports."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Final

_FIRST: Final = 20_000
_FIRST_EPHEMERAL: Final = 32_768  # where the kernel does not say


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def steady_port() -> int:
    """A free loopback port below those that the kernel gives to outgoing connections.

    A server that is restarted finds it free again, however many connections are made meanwhile.
    """
    above = _first_ephemeral() - _FIRST
    while not is_free(port := _FIRST + secrets.randbelow(above)):
        pass
    return port


def is_free(port: int) -> bool:
    """Whether a server could take this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return port != 0


def _first_ephemeral() -> int:
    try:
        said = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    except OSError:
        return _FIRST_EPHEMERAL
    first = int(said.split()[0])
    return first if first > _FIRST + 1_000 else _FIRST_EPHEMERAL
