"""Which server has a slot, and the one connection to it that commands share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from redis.crc import key_slot
from redis.exceptions import RedisError

from stepwrit_broker.core.errors import Unavailable
from stepwrit_broker.store.fleet.redis.trouble import misplaced
from stepwrit_broker.store.fleet.redis.url import Address, Mode, Place
from stepwrit_broker.store.fleet.redis.wire import Login, Wire


class Finder(Protocol):
    """Says where a slot is."""

    async def find(self, tag: str) -> Address:
        """The primary that has this hash tag. Raises Unavailable(rule="store")."""
        ...

    async def all(self) -> Sequence[Address]:
        """Every primary."""
        ...

    def forget(self) -> None:
        """What is known may be wrong."""
        ...


class _One:
    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self, tag: str) -> Address:
        del tag  # all are there
        return self._address

    async def all(self) -> Sequence[Address]:
        return [self._address]

    def forget(self) -> None:
        pass


class _BySentinels:
    """All are asked at every connecting: the primary is whom more than half of them name, else whom most do.

    One that was away, or is cut off, goes on naming the primary of before.
    """

    def __init__(self, place: Place, login: Login) -> None:
        self._place, self._login = place, login

    async def find(self, tag: str) -> Address:
        del tag  # all are there
        asking = [asyncio.create_task(self._named_by(address)) for address in self._place.hosts]
        try:
            return await self._most_named(asking)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _most_named(self, asking: Sequence[asyncio.Task[Address | None]]) -> Address:
        votes = Counter[Address]()
        for each in asyncio.as_completed(asking):
            named = await each
            if named is None:
                continue
            votes[named] += 1
            if 2 * votes[named] > len(asking):
                return named
        if not votes:
            raise misplaced("no Sentinel names its primary")
        return votes.most_common(1)[0][0]

    async def _named_by(self, sentinel: Address) -> Address | None:
        said = await asked(sentinel, self._login, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._place.name)
        return (said[0].decode(), int(said[1])) if said else None

    async def all(self) -> Sequence[Address]:
        return [await self.find("")]

    def forget(self) -> None:
        pass


class _ByCluster:
    """By the cluster's own table of slots, read again after any doubt."""

    def __init__(self, place: Place, login: Login) -> None:
        self._place, self._login = place, login
        self._table: list[tuple[int, int, Address]] = []

    async def find(self, tag: str) -> Address:
        slot = key_slot(tag.encode())
        for low, high, address in await self._ranges():
            if low <= slot <= high:
                return address
        self.forget()
        raise misplaced("no node of the cluster has this slot")

    async def all(self) -> Sequence[Address]:
        return sorted({address for _, _, address in await self._ranges()})

    def forget(self) -> None:
        self._table = []

    async def _ranges(self) -> list[tuple[int, int, Address]]:
        for address in self._place.hosts if not self._table else ():
            said = await asked(address, self._login, "CLUSTER", "SLOTS")
            if said:
                self._table = [
                    (low, high, ((node[0] or b"").decode() or address[0], int(node[1])))
                    for low, high, node, *_ in said
                ]
                break
        if not self._table:
            raise misplaced("no node of the cluster tells its slots")
        return self._table


async def asked(address: Address, login: Login, *words: str) -> list[Any]:
    """One answer on a connection of its own; empty when there is none."""
    try:
        wire = await Wire.open(address, login, looks=False)
    except Unavailable:
        return []
    try:
        return cast("list[Any]", await wire.call(*words) or [])
    except (RedisError, Unavailable):
        return []
    finally:
        await wire.close()


def _finder(place: Place, login: Login, sentinel: Login) -> Finder:
    if place.mode == "sentinel":
        return _BySentinels(place, sentinel)
    return _ByCluster(place, login) if place.mode == "cluster" else _One(place.hosts[0])


class Nodes:
    """The connections of one broker. mode: how the servers are found."""

    def __init__(self, place: Place, login: Login, sentinel: Login) -> None:
        self.mode: Final[Mode] = place.mode
        self.place, self.login, self.sentinel = place, login, sentinel
        self._finder = _finder(place, login, sentinel)
        self._wires: dict[tuple[str, Address | None], Wire] = {}
        self._opening: dict[tuple[str, Address | None], asyncio.Task[Wire]] = {}
        self._is_closed = False

    async def wire(self, tag: str, use: str = "") -> Wire:
        """The connection for this hash tag. use: commands of another use have another connection.

        Raises Unavailable(rule="store").
        """
        key = (use, await self._place(tag))
        wire = self._wires.get(key)
        if wire is not None and wire.is_open:
            return wire
        opening = self._opening.get(key)
        if opening is None:  # whoever comes meanwhile shares its end, also when it fails
            opening = self._opening[key] = asyncio.create_task(self._reopened(tag, use))
            opening.add_done_callback(lambda done: self._opened(key, done))
        return await asyncio.shield(opening)

    def _opened(self, key: tuple[str, Address | None], done: asyncio.Task[Wire]) -> None:
        self._opening.pop(key, None)
        if not done.cancelled():
            done.exception()  # looked at, where nobody waits for it any more

    async def _place(self, tag: str) -> Address | None:
        return await self._finder.find(tag) if self.mode == "cluster" else None

    async def _reopened(self, tag: str, use: str) -> Wire:
        if self._wires.pop((use, await self._place(tag)), None) is not None:
            self._finder.forget()
        wire = await self.open(await self.where(tag))
        key = (use, wire.address if self.mode == "cluster" else None)
        other = self._wires.get(key)
        if other is None or not other.is_open:
            self._wires[key] = wire
            return wire
        await wire.close()
        return other

    async def follow(self) -> None:
        """Leave a server that is not the primary any more, whatever it says of itself: it may be cut off.

        Where nobody says who is, all stays as it is.
        """
        try:
            primaries = await self._finder.all()
        except Unavailable:
            return
        for wire in [each for each in self._wires.values() if each.address not in primaries]:
            await wire.close()

    async def where(self, tag: str) -> Address:
        """The primary of this hash tag. Raises Unavailable(rule="store")."""
        return await self._finder.find(tag)

    async def open(self, address: Address) -> Wire:
        """A connection to a primary, of the caller's own. Raises Unavailable(rule="store")."""
        if self._is_closed:
            raise misplaced("its connections are closed")
        wire = await Wire.open(address, self.login)
        if wire.role == "master":
            return wire
        await wire.close()
        self._finder.forget()
        raise misplaced("the server that is named is no primary")

    async def primaries(self) -> Sequence[Address]:
        """Every primary. Raises Unavailable(rule="store")."""
        return await self._finder.all()

    async def close(self) -> None:
        """Let go of all of them."""
        self._is_closed = True
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        wires, self._wires = list(self._wires.values()), {}
        for wire in wires:
            await wire.close()
