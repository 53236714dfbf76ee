"""Foreign programs: where they are looked for, when they are built, and what is said when they cannot be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stepwrit_broker.dev import tools
from stepwrit_broker.dev.spire import hcl
from stepwrit_broker.dev.spire.interpreter import copy_python
from stepwrit_broker.dev.spire.process import socket_in
from stepwrit_broker.dev.tools import ToolMissing

GO = """#!/bin/sh
if [ "$1" = version ]; then echo "go version {version} linux/amd64"; exit 0; fi
shift; while [ "$1" != -o ]; do shift; done; out=$2; shift 2
echo built >> {log}
[ {fails} = 1 ] && exit 1
for package in "$@"; do name=${{package##*/}}; printf '#!/bin/sh\\n' > "$out$name"; chmod +x "$out$name"; done
"""


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPWRIT_TOOLS", str(tmp_path / "tools"))
    return tmp_path / "tools"


def put_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "go1.99.1", *, fails: int = 0
) -> Path:
    """A stand-in for Go and the C compiler, alone on PATH; returns the file that counts its builds."""
    log = folder / "builds"
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in (("go", GO.format(version=version, log=log, fails=fails)), ("cc", "#!/bin/sh\n")):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    os.symlink("/bin/chmod", folder / "bin" / "chmod") if not (folder / "bin" / "chmod").exists() else None
    monkeypatch.setenv("PATH", str(folder / "bin"))
    return log


def test_what_is_missing_is_built_once_and_found(
    where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = put_go(tmp_path, monkeypatch)
    assert tools.build() == where
    assert tools.find("spire-server") == where / "spire-server"
    assert {"spire-server", "spire-agent", "oidc-discovery-provider", "litewitness", "fsck"} <= {
        each.name for each in where.iterdir()
    }
    assert tools.main() == 0
    assert log.read_text().count("built") == 2, "two modules"
    (where / ".pin").write_text("that of another commit")
    tools.build()
    assert log.read_text().count("built") == 3, "only the one that changed"


def test_a_failed_build_leaves_what_was_there(
    where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path, monkeypatch)
    tools.build()
    (where / ".pin").write_text("that of another commit")
    before = sorted(each.name for each in where.iterdir())
    put_go(tmp_path, monkeypatch, fails=1)
    with pytest.raises(ToolMissing, match="the build failed"):
        tools.build()
    assert sorted(each.name for each in where.iterdir()) == before


def test_without_go_or_with_an_old_one_it_says_which_to_install(
    where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_go(tmp_path, monkeypatch, "go1.20.3")
    with pytest.raises(ToolMissing, match=r"Go 1\.26\.4 or newer is needed; .*/go is 1\.20\.3"):
        tools.build()
    (tmp_path / "bin" / "go").unlink()
    assert tools.main() == 1
    assert "Go is not on PATH. Install Go 1.26.4 or newer" in capsys.readouterr().err
    put_go(tmp_path, monkeypatch)
    (tmp_path / "bin" / "cc").unlink()
    with pytest.raises(ToolMissing, match="a C compiler is needed"):
        tools.build()


def test_a_tool_on_path_serves_and_a_missing_one_says_make_tools(
    where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path, monkeypatch)
    with pytest.raises(ToolMissing, match=r"spire-agent .* run `make tools`"):
        tools.find("spire-agent")
    own = tmp_path / "bin" / "spire-agent"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert tools.find("spire-agent") == own


def test_the_cache_is_outside_the_checkout_and_named_after_the_pin(tmp_path: Path) -> None:
    assert tools.folder({"HOME": "/home/a"}) == Path("/home/a/.cache/stepwrit/tools") / tools.pin()[:16]
    assert tools.folder({"HOME": "/", "XDG_CACHE_HOME": "/x"}).parent == Path("/x/stepwrit/tools")
    (tmp_path / "go.mod").write_text("module other\n")
    assert tools.pin(tmp_path) != tools.pin()


def test_settings_become_blocks_and_strings_cannot_leave_them() -> None:
    text = hcl.render({"server": {"port": 1, "on": True, "x": 'a"b', "no": None, 'Plugin "p"': {"k": ["v"]}}})
    assert text == 'server {\n  port = 1\n  on = true\n  x = "a\\"b"\n  Plugin "p" {\n    k = ["v"]\n  }\n}\n'


def test_a_copied_python_is_another_executable_with_the_same_modules(tmp_path: Path) -> None:
    python = copy_python(tmp_path / "one")
    code = "import os, stepwrit_broker, grpc; print(os.readlink('/proc/self/exe'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(python)


def test_a_socket_that_the_kernel_would_not_take_is_refused(tmp_path: Path) -> None:
    assert socket_in(Path("/tmp/x"), "a.sock") == Path("/tmp/x/a.sock")
    with pytest.raises(ValueError, match="take a shorter folder"):
        socket_in(Path("/tmp") / ("x" * 100), "a.sock")
