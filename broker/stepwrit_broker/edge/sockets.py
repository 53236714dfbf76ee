"""Sockets that are bound before they are served, so that a taken address is an error of ours."""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable
from pathlib import Path


class ListenerError(Exception):
    """A listener cannot start; the message says which and why."""


def bind_tcp(name: str, host: str, port: int) -> socket.socket:
    """A TCP socket on exactly this address; port 0 takes a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenerError(f"{name}: {host}:{port}: {error}") from error
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bound(name, bound, address)


def bind_unix(name: str, path: Path, mode: int) -> socket.socket:
    """A Unix socket with this mode. A dead socket file is replaced; a live one, or a file, refused."""
    if path.exists() or path.is_symlink():
        _clear_dead(name, path)
    bound = _bound(name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), str(path))
    path.chmod(mode)  # nobody can connect before listen(), so there is no moment in between
    return bound


def own_socket_file(path: str) -> Callable[[], None]:
    """The deed that removes the file of a bound Unix socket, unless somebody replaced it since."""
    file = Path(path)
    inode = file.stat().st_ino

    def remove() -> None:
        if file.exists() and file.stat().st_ino == inode:
            file.unlink()

    return remove


def _clear_dead(name: str, path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ListenerError(f"{name}: {path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ListenerError(f"{name}: {path}: {error}") from error
    raise ListenerError(f"{name}: {path} is in use by a running process")


def _bound(name: str, unbound: socket.socket, address: object) -> socket.socket:
    try:
        unbound.bind(address)  # type: ignore[arg-type]  # a path or getaddrinfo's own tuple
    except OSError as error:
        unbound.close()
        raise ListenerError(f"{name}: {address}: {error}") from error
    unbound.setblocking(False)
    return unbound
