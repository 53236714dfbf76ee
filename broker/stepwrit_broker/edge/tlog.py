"""C2SP tlog-tiles: `/tlog/checkpoint`, `/tlog/tile/…`, for monitors, auditors and verifiers.

On `mtls` and the admin socket for operators and auditors; entry bundles hold every tenant's entries, so only
who may see all of them gets these. On `tls` checkpoint and hash tiles, to anyone, and only where broker.toml
says so. Everything is a static resource of the published checkpoint; a tile never changes.
"""

import gzip
from typing import Annotated, Final

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Response

from stepwrit_broker.core.tiles import Tile
from stepwrit_broker.edge.operator import Reader, asking, check_sees_all
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.tiles import Tiles

PREFIX: Final = "/tlog"
READERS_AT_ONCE: Final = 4  # a bundle is 16 MiB at most
_FOR_EVER: Final = "max-age=31536000, immutable"
_PLAIN: Final = "text/plain; charset=utf-8"

Asking = Annotated[Reader, Depends(asking)]


def public_tlog(tiles: Tiles) -> APIRouter:
    """Checkpoint and hash tiles, to anyone."""
    router, serve = APIRouter(prefix=PREFIX, tags=["tlog"]), _Serving(tiles, "public")

    @router.get("/checkpoint")
    def checkpoint() -> Response:
        """The newest published checkpoint, a signed note."""
        return serve.checkpoint()

    @router.get("/tile/{name:path}")
    async def tile(name: str, request: Request) -> Response:
        """A hash tile: `LEVEL/INDEX` or `LEVEL/INDEX.p/WIDTH`. Entry bundles are not public."""
        found = tiles.find(name)
        return await serve.tile(None if found is None or found.level is None else found, request)

    return router


def readers_tlog(tiles: Tiles, house: House) -> APIRouter:
    """All of it, to operators and auditors; bundles only to who sees every tenant."""
    router, serve = APIRouter(prefix=PREFIX, tags=["tlog"]), _Serving(tiles, "private")

    @router.get("/checkpoint")
    def checkpoint(who: Asking) -> Response:  # noqa: ARG001
        """The newest published checkpoint, a signed note."""
        return serve.checkpoint()

    @router.get("/tile/{name:path}")
    async def tile(name: str, request: Request, who: Asking) -> Response:
        """A hash tile or, as `entries/INDEX`, a bundle of entries."""
        if name.startswith("entries/"):
            check_sees_all(house, who)
        return await serve.tile(tiles.find(name), request)

    return router


class _Serving:
    def __init__(self, tiles: Tiles, whose: str) -> None:
        self._tiles, self._whose = tiles, whose
        self._limit = anyio.Semaphore(READERS_AT_ONCE)

    def checkpoint(self) -> Response:
        note = self._tiles.checkpoint()
        if note is None:
            return _missing("there is no checkpoint yet")
        return Response(note, media_type=_PLAIN, headers={"cache-control": "no-cache"})

    async def tile(self, tile: Tile | None, request: Request) -> Response:
        if tile is None:
            return _missing("the published checkpoint has no such tile")
        async with self._limit:
            content = await anyio.to_thread.run_sync(self._tiles.content, tile)
        if content is None:
            return _missing("these entries were sealed: they are in an export")
        headers = {"cache-control": f"{self._whose}, {_FOR_EVER}"}
        if tile.level is None:
            headers["vary"] = "accept-encoding"
            if "gzip" in request.headers.get("accept-encoding", ""):
                headers["content-encoding"] = "gzip"
                content = await anyio.to_thread.run_sync(gzip.compress, content, 6)
        return Response(content, media_type="application/octet-stream", headers=headers)


def _missing(why: str) -> Response:
    """Never cached: what is not there yet may be there in a second."""
    return Response(why + "\n", status_code=404, media_type=_PLAIN, headers={"cache-control": "no-store"})
