"""Whether the OPA of [opa] answers, where one is named or needed. Nothing is given to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from stepwrit_broker.cli.check import Check
from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.config import Config
from stepwrit_broker.core.errors import Problem
from stepwrit_broker.policy.files import engine_of, read_folder
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaFailed, OpaServer
from stepwrit_broker.wiring.configured import opa_server

_START = "start OPA for this broker, as: opa run --server --addr unix:///run/stepwrit/opa.sock"


def opa_check(config: Config) -> Iterator[Check]:
    """One check; none where no OPA is named and the policy is not Rego."""
    server, is_rego = opa_server(config), _is_rego(config)
    if server is not None:
        yield _asked(server, config.opa.url, is_rego=is_rego)
    elif is_rego:
        todo = "name its url in broker.toml [opa], or use Cedar policies"
        said = f"{config.files.policy} is Rego, and no OPA server is named"
        yield Check(name="opa", ok=False, said=said, todo=todo)


def _is_rego(config: Config) -> bool:
    """A folder that does not load is told of elsewhere."""
    try:
        return engine_of(read_folder(config.files.policy)) == "opa"
    except Problem:
        return False


def _asked(server: OpaServer, url: str, *, is_rego: bool) -> Check:
    todo = _START if is_rego else f"{_START}; the policy in the folder does not need it"
    try:
        seconds = asyncio.run(_reached(server))
    except (OSError, UnicodeDecodeError) as bad:  # an SSLError is an OSError
        todo = "let the broker's user read ca_file and token_file of [opa]"
        return Check(name="opa", ok=False, said=f"{url}: {bad}", todo=todo)
    except (OpaFailed, TimeoutError) as bad:
        why = bad.why if isinstance(bad, OpaFailed) else f"no answer within {server.timeout_s * 1000:g} ms"
        if why in {"status_401", "status_403"}:
            todo = "set token_file in broker.toml [opa] to a token that may ask, and write policies"
        return Check(name="opa", ok=False if is_rego else None, said=f"{url}: {why}", todo=todo)
    return Check(name="opa", ok=True, said=f"{url} answers in {seconds * 1000:.1f} ms")


async def _reached(server: OpaServer) -> float:
    opa = Opa(server, elapsed_s)
    try:
        return await opa.reached()
    finally:
        await opa.aclose()
