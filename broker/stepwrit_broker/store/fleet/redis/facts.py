"""What each primary says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import ResponseError

from stepwrit_broker.ports import Clock
from stepwrit_broker.store.fleet.facts import RedisFacts, surely_off
from stepwrit_broker.store.fleet.redis.nodes import Nodes, asked
from stepwrit_broker.store.fleet.redis.trouble import refused
from stepwrit_broker.store.fleet.redis.url import Address
from stepwrit_broker.store.fleet.redis.wire import Wire, fields

_SETTINGS: Final = (
    "maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save",
    "min-replicas-to-write", "min-replicas-max-lag",
)  # fmt: skip


async def facts_of(nodes: Nodes, clock: Clock) -> tuple[RedisFacts, ...]:
    """Of every primary; settings that may not be asked are None. Raises Unavailable(rule="store")."""
    watch = await _sentinels(nodes)
    return tuple([await _facts(nodes, address, clock, watch) for address in await nodes.primaries()])


async def _facts(nodes: Nodes, address: Address, clock: Clock, watch: Mapping[str, int]) -> RedisFacts:
    wire = await nodes.open(address)
    try:
        info = {
            name: value for part in _PARTS for name, value in fields(await wire.call("INFO", part)).items()
        }
        offset = await _offset(wire, clock)
        settings = await _settings(wire)
        user = await _user(wire)
    except ResponseError as reply:
        raise refused(reply) from None
    finally:
        await wire.close()
    maxmemory = settings.pop("maxmemory", None)
    return RedisFacts(
        node=f"{address[0]}:{address[1]}",
        mode=nodes.mode,
        version=info["redis_version"],
        role=info["role"],
        run_id=info["run_id"],
        replicas=_online(info),
        used_memory=int(info["used_memory"]),
        clock_offset_s=offset,
        is_tls=nodes.place.is_tls,
        user=user,
        maxmemory=None if maxmemory is None else int(maxmemory),
        sentinels=watch.get("sentinels"),
        quorum=watch.get("quorum"),
        **{name.replace("-", "_"): value for name, value in settings.items()},
    )


_PARTS: Final = ("server", "replication", "memory")


def _online(info: Mapping[str, str]) -> int:
    count = int(info["connected_slaves"])
    return sum("state=online" in info.get(f"slave{at}", "") for at in range(count))


async def _offset(wire: Wire, clock: Clock) -> float:
    before = clock.now()
    seconds, micros = await wire.call("TIME")
    return surely_off(int(seconds) + int(micros) / 1e6, before, clock.now())


async def _user(wire: Wire) -> str:
    try:
        return str((await wire.call("ACL", "WHOAMI")).decode())
    except ResponseError:
        return ""


async def _settings(wire: Wire) -> dict[str, Any]:
    try:
        said = [each.decode() for each in await wire.call("CONFIG", "GET", *_SETTINGS)]
    except ResponseError:
        return {}
    return dict(zip(said[::2], said[1::2], strict=True))


async def _sentinels(nodes: Nodes) -> Mapping[str, int]:
    """How many watch the primary, and how many must agree."""
    for address in nodes.place.hosts if nodes.mode == "sentinel" else ():
        said = await asked(address, nodes.sentinel, "SENTINEL", "MASTER", nodes.place.name)
        words = [each.decode() for each in said]
        known = dict(zip(words[::2], words[1::2], strict=True))
        if known:
            return {"sentinels": int(known["num-other-sentinels"]) + 1, "quorum": int(known["quorum"])}
    return {}
