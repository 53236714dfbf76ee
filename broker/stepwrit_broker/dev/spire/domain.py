"""A whole trust domain on real SPIRE: a server, an agent, and workloads enrolled by their executable."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from stepwrit_broker.dev.spire.agent import AgentOptions, SpireAgent
from stepwrit_broker.dev.spire.interpreter import copy_python, shared_library
from stepwrit_broker.dev.spire.registration import Entry
from stepwrit_broker.dev.spire.server import ServerOptions, SpireServer


class SpireDomain:
    """`async with SpireDomain("a.test") as domain:`; everything it starts, it ends, and its folder goes too.

    Enrolled in one process, several workloads are told apart by hint, which is their path. Not bound to an
    event loop.
    """

    def __init__(
        self,
        trust_domain: str,
        *,
        server: ServerOptions | None = None,
        agent: AgentOptions | None = None,
    ) -> None:
        self.trust_domain: Final = trust_domain
        self.folder: Final = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))  # short, mode 0700
        self.server: Final = SpireServer(trust_domain, self.folder / "s", server)
        self.agent: Final = SpireAgent(self.server, self.folder / "a", agent)
        self._numbers: Final[dict[str, list[str]]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """The server, then the agent; waits until both serve."""
        try:
            await self._stack.enter_async_context(self.server)
            await self._stack.enter_async_context(self.agent)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End both and remove the folder."""
        await self._stack.aclose()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def socket(self) -> str:
        """The Workload API, `unix:///…`."""
        return self.agent.socket

    def id_of(self, path: str) -> str:
        """The SPIFFE ID of a path in this domain."""
        return f"spiffe://{self.trust_domain}/{path}"

    async def enrol(self, *paths: str, executable: Path | None = None, **terms: Any) -> None:
        """An entry for each path, with the path as its hint, for processes of one executable.

        executable: None is this process's own. terms: more members of `Entry`. The agent knows with its next
        synchronisation; a `WorkloadIdentity` that is already waiting finds it then.
        """
        selector = f"unix:path:{executable or own_executable()}"
        entries = [self.entry(path, selector) for path in paths]
        made = await self.server.api.create_entries(replace(each, **terms) for each in entries)
        for path, number in zip(paths, made, strict=True):
            self._numbers.setdefault(path, []).append(number)

    def entry(self, path: str, *selectors: str) -> Entry:
        """The entry of a path below our agent, as `enrol` makes it."""
        return Entry(spiffe_id=self.id_of(path), parent=self.agent.spiffe_id, selectors=selectors, hint=path)

    async def expel(self, path: str) -> None:
        """Delete every entry of a path."""
        for number in self._numbers.pop(path):
            await self.server.api.delete_entry(number)

    def numbers(self, path: str) -> tuple[str, ...]:
        """The numbers of its entries."""
        return tuple(self._numbers.get(path, ()))

    async def program(self, path: str, **terms: Any) -> Path:
        """A Python of its own for this workload, enrolled: what it runs is `path`, without asking by hint."""
        python = copy_python(self.folder / "py" / path.replace("/", "-"))
        await self.enrol(path, executable=python, **terms)
        return python

    def environment(self, path: str | None = None) -> dict[str, str]:
        """What a process needs to be a workload here. path: its hint, where it is several."""
        hint = {} if path is None else {"STEPWRIT_SPIFFE_HINT": path}
        return {"SPIFFE_ENDPOINT_SOCKET": self.socket, **shared_library(), **hint}


def own_executable() -> Path:
    """The executable of this process, as the `unix` attestor sees it."""
    try:
        return Path("/proc/self/exe").readlink()
    except OSError:
        return Path(os.path.realpath(sys.executable))
