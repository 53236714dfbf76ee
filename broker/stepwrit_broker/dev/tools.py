"""The foreign programs that tests and demos run as real processes, built from `deploy/tools` by `make tools`.

    find("spire-server")     # a path, or ToolMissing that says what to do
    python -m stepwrit_broker.dev.tools    # what `make tools` runs

`deploy/tools` is a Go module that pins each program; its go.sum holds the hash of every source file that
goes in, so the same commit builds the same programs. They land outside the checkout, in a folder named after
that pin; `STEPWRIT_TOOLS` names another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MODULE: Final = Path(__file__).resolve().parents[3] / "deploy" / "tools"
TLOG: Final = MODULE / "tlog"
MODULES: Final = (MODULE, TLOG)  # apart, so that a new version of one builds nothing of the other
FOLDER: Final = "STEPWRIT_TOOLS"
_STAMP: Final = ".pin"


class ToolMissing(RuntimeError):  # noqa: N818  reads as a state
    """A program is not there, or cannot be built; the message says what to do."""


def find(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where a tool is: `STEPWRIT_TOOLS`, the cache that `make tools` fills, or PATH. Raises ToolMissing."""
    places = [*(str(folder(environ, module)) for module in MODULES), environ.get("PATH", "")]
    found = next(filter(None, (shutil.which(name, path=each) for each in places)), None)
    if found is None:
        raise ToolMissing(f"{name} is neither in {folder(environ)} nor on PATH: run `make tools`")
    return Path(found)


def folder(environ: Mapping[str, str] = os.environ, module: Path = MODULE) -> Path:
    """Where the built tools of a module are."""
    if chosen := environ.get(FOLDER):
        return Path(chosen).absolute()
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    return Path(base) / "stepwrit" / "tools" / pin(module)[:16]


def pin(module: Path = MODULE) -> str:
    """SHA-256 of go.mod and go.sum, hexadecimal; that of nothing where there is no checkout."""
    files = [module / "go.mod", module / "go.sum"]
    return hashlib.sha256(b"".join(each.read_bytes() for each in files if each.exists())).hexdigest()


def packages(module: Path = MODULE) -> dict[str, str]:
    """Program -> Go package, by the `tool` directives of go.mod."""
    block = re.search(r"^tool \((.*?)^\)", (module / "go.mod").read_text(encoding="utf-8"), re.M | re.S)
    paths = block[1].split() if block else []
    return {path.rpartition("/")[2]: path for path in paths}


def is_built(environ: Mapping[str, str] = os.environ, module: Path = MODULE) -> bool:
    """Whether every tool is there, of this very pin. Tools that someone else put there are theirs to mind."""
    where = folder(environ, module)
    stamp = where / _stamp(module)
    current = not stamp.exists() or stamp.read_text(encoding="ascii") == pin(module)
    return current and all(os.access(where / name, os.X_OK) for name in packages(module))


def _stamp(module: Path) -> str:
    return _STAMP if module == MODULE else f"{_STAMP}-{module.name}"


def build(environ: Mapping[str, str] = os.environ) -> Path:
    """Build what is missing and return the folder. Raises ToolMissing; then nothing changed there."""
    for module in MODULES:
        if not is_built(environ, module):
            _build(folder(environ, module), module)
    return folder(environ)


def _build(where: Path, module: Path) -> None:
    go = _go()
    where.mkdir(parents=True, exist_ok=True)
    _say(f"building {', '.join(packages(module))} into {where}; the first time takes minutes ...")
    with tempfile.TemporaryDirectory(prefix=".new-", dir=where) as new:
        _compile(go, Path(new), module)
        for made in Path(new).iterdir():
            made.replace(where / made.name)
    (where / _stamp(module)).write_text(pin(module), encoding="ascii")


def _compile(go: str, into: Path, module: Path) -> None:
    command = [go, "build", "-trimpath", "-mod=readonly", "-o", f"{into}/", *packages(module).values()]
    if subprocess.run(command, cwd=module, check=False).returncode != 0:  # noqa: S603
        raise ToolMissing("the build failed; what go said is above")


def _go() -> str:
    """A Go that is new enough, with the C compiler that SPIRE's SQLite wants."""
    needed = _needed()
    go = shutil.which("go")
    if go is None:
        raise ToolMissing(f"Go is not on PATH. Install Go {needed} or newer: https://go.dev/dl/")
    # asked in the module's folder, where GOTOOLCHAIN may choose a newer one
    said = subprocess.run([go, "version"], cwd=MODULE, capture_output=True, text=True, check=False)  # noqa: S603
    version = re.search(r"\bgo(\d+(?:\.\d+)*)", said.stdout)
    if version is None or _parts(version[1]) < _parts(needed):
        found = version[1] if version else (said.stderr or said.stdout).strip()
        raise ToolMissing(f"Go {needed} or newer is needed; {go} is {found}. Install it: https://go.dev/dl/")
    if not any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang")):
        raise ToolMissing("a C compiler is needed for SPIRE's SQLite: install gcc or clang")
    return go


def _needed() -> str:
    found = re.search(r"^go (\S+)$", (MODULE / "go.mod").read_text(encoding="utf-8"), re.M)
    return found[1] if found else "1.26"


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in version.split("."))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  `make tools` shows it


def main() -> int:
    """Build, and say where. 1 where that cannot be."""
    try:
        _say(f"tools are in {build()}")
    except ToolMissing as missing:
        _say(f"make tools: {missing}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
