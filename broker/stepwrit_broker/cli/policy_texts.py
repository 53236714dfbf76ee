"""A policy as commands name it: a folder, an exported file, `in-force`, a version of the broker's store."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from stepwrit.errors import ConfigurationError
from stepwrit_broker.cli.client import asking
from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaServer
from stepwrit_broker.ports import PolicyEngine
from stepwrit_broker.rehearsal.ask import Outcome, ask
from stepwrit_broker.rehearsal.suite import Case
from stepwrit_broker.wiring.documents import OperatorDocuments, document_text

T = TypeVar("T")
OPA_S: Final = 5.0  # nobody waits for this answer but the author
OpaUrl = Annotated[
    str | None,
    typer.Option(
        "--opa", metavar="URL", help="The OPA that evaluates Rego: unix:///PATH or http://HOST:PORT."
    ),
]
IN_FORCE: Final = "in-force"
_FILE_LINE: Final = re.compile(r"^(?://|#) --- (\S+)\n", re.MULTILINE)
_PLACED: Final = re.compile(r"(?m)^(?=[^\s:/]+\.(?:cedar|rego|json):)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy that loads. `label`: how it was named; `doc`: the canonical document."""

    label: str
    doc: str

    def answers(self, cases: Sequence[Case], opa: str | None) -> list[Outcome]:
        """What it says to each case. opa: the URL of the OPA that evaluates Rego."""
        return self.asked(lambda engine: ask(engine, cases), opa)

    def asked(self, use: Callable[[PolicyEngine], Awaitable[T]], opa: str | None) -> T:
        """What `use` makes of the engine that answers by this policy. Raises Malformed, Unavailable."""
        return asyncio.run(self._asked(use, opa))

    async def _asked(self, use: Callable[[PolicyEngine], Awaitable[T]], url: str | None) -> T:
        server = None if url is None else Opa(OpaServer(url=url, timeout_s=OPA_S), elapsed_s)
        try:
            documents = OperatorDocuments(opa=server)
            engine = documents.policy(self.doc, 0)
            await documents.prove(engine)
            return await use(engine)
        finally:
            if server is not None:
                await server.aclose()


def policy_of(given: str, at: str | None) -> Policy:
    """Raises Malformed, every line as `file:line: what`; ConfigurationError for what nobody can name so.

    `at`: the broker to ask, for `in-force` and version numbers.
    """
    path = Path(given)
    if path.is_dir():
        return folder_policy(path)
    if path.is_file():
        return Policy(label=given, doc=_checked(exported(path), given))
    if given == IN_FORCE or given.isdigit():
        with asking(at) as admin:
            stored = admin.get("/policy", **({} if given == IN_FORCE else {"version": int(given)}))
        return Policy(label=f"v{stored['version']}", doc=stored["doc"])
    raise ConfigurationError(f"{given} is no folder, no file, no version number and not {IN_FORCE}")


def folder_policy(folder: Path) -> Policy:
    """The policy in a folder. Raises Malformed, its lines with the folder before the file."""
    return Policy(label=str(folder), doc=_checked(document_text("policy", folder), str(folder)))


def _checked(text: str, name: str) -> str:
    try:
        return OperatorDocuments().read("policy", text, name)[0]
    except Malformed as bad:
        placed = _PLACED.sub(lambda _: f"{name.rstrip('/')}/", bad.reason)
        raise Malformed("invalid_request", placed) from None


def exported(path: Path) -> str:
    """What `policy export` and `policy show --json` print, as a JSON object of texts by file name.

    Raises Malformed.
    """
    text = path.read_text(encoding="utf-8")
    pieces = _FILE_LINE.split(text)
    if len(pieces) > 1 and not pieces[0].strip():
        return json.dumps(dict(zip(pieces[1::2], pieces[2::2], strict=True)))
    try:
        read = json.loads(text)
        read = json.loads(read["doc"]) if "doc" in read else read
        return json.dumps({**read["files"], "facts.json": json.dumps(read.get("facts", {}))})
    except (ValueError, KeyError, TypeError):
        raise Malformed("invalid_request", f"{path}: not an exported policy") from None
