"""How often one address may ask: a bucket for each, and never more than so many buckets."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.edge.http import Request

ADDRESSES_MAX: Final = 4_096
_V6_PREFIX: Final = 64  # one household, RFC 6177


@dataclass(slots=True)
class Door:
    """At most `burst` at once, one more every `every_s` seconds; by the address of the connection."""

    burst: int
    every_s: float
    _tats: OrderedDict[str, float] = field(default_factory=OrderedDict[str, float])

    def check(self, request: Request, now: float) -> None:
        """Count one (GCRA). Raises Refused(`limit`)."""
        who = _address(request)
        tat = max(self._tats.pop(who, now), now)
        over = tat - now - (self.burst - 1) * self.every_s
        self._tats[who] = tat if over > 0 else tat + self.every_s
        if len(self._tats) > ADDRESSES_MAX:
            self._tats.popitem(last=False)
        if over > 0:
            raise Refused("limit", "too many requests; wait a little", rule="pages", retry_after=over)


def _address(request: Request) -> str:
    client = request.scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # a socket for both: all of IPv4 is not one household
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _V6_PREFIX), strict=False))
