"""Copies of this Python, so that SPIRE tells programs of one uid apart by the path of their executable.

The `unix` attestor sees what the kernel says a process runs, and a symbolic link is not that: a virtual
environment's `python` is its base's. A hard copy in an environment of its own is another executable with the
same modules.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def copy_python(folder: Path) -> Path:
    """A Python in `folder`, with every module of this one. Its path is good for `unix:path:`."""
    folder = folder.resolve()
    base = Path(os.path.realpath(sys.executable))
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base, python)
    python.chmod(0o755)
    in_venv = sys.prefix != sys.base_prefix
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = {str(not in_venv).lower()}\n", encoding="utf-8"
    )
    if in_venv and not (folder / "lib").exists():
        (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    return python


def shared_library() -> dict[str, str]:
    """What a copy needs in its environment where Python is a shared library found beside the executable."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return {}
    return {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}
