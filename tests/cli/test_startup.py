"""A command that only asks or reads loads no server: `stepwrit --help` and completion are to come at once."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from stepwrit_broker.cli.app import app
print(*sorted({"fastapi", "uvicorn", "grpc", "mcp", "structlog"} & set(sys.modules)))
from stepwrit_broker.wiring import configured
print(*sorted({"fastapi", "uvicorn", "grpc"} & set(sys.modules)))
"""


def test_the_command_line_loads_no_server() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    cli, broker = done.stdout.splitlines()
    assert cli == ""
    assert broker == "fastapi grpc uvicorn", "what a broker loads is seen"
