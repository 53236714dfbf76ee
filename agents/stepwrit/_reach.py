"""Why a Unix socket cannot be reached, in words that say which path, which user, and what to do."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

_PROBE_S: Final = 1.0
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISFIFO, "a named pipe"),
)


def trouble(path: Path) -> str | None:
    """What stands between this process and whoever listens on the path; None: somebody listens, and we may
    connect. Connects and hangs up at once.
    """
    try:
        status = path.stat()
    except PermissionError:
        return f"uid {os.geteuid()} may not look into {_closed(path)}"
    except OSError:
        return f"there is no socket {path}: is the SPIRE agent running, and is this its socket_path?"
    if not stat.S_ISSOCK(status.st_mode):
        return f"{path} is {_kind(status.st_mode)}, not a socket"
    return _refused(path, status)


def _refused(path: Path, status: os.stat_result) -> str | None:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(str(path))
    except PermissionError:
        mode, owner = stat.S_IMODE(status.st_mode), f"uid {status.st_uid}, gid {status.st_gid}"
        return f"uid {os.geteuid()} may not open {path} (mode {mode:04o}, of {owner})"
    except ConnectionRefusedError:
        return f"nobody listens on {path}: the agent that made it is gone"
    except OSError as bad:
        return f"{path} cannot be connected to ({bad.strerror or bad})"
    return None


def _closed(path: Path) -> Path:
    """The outermost folder that this user may not pass."""
    return next((each for each in reversed(path.parents) if not os.access(each, os.X_OK)), path.parent)


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")
