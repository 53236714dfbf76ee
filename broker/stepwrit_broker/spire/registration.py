"""A registration entry of SPIRE, in the three shapes that its command line speaks.

Source: SPIRE 1.15, `spire-server entry create|update|show`: its flags, `-data` (plain JSON of
`spire.common.RegistrationEntries`), `-output json` (protobuf JSON of `spire.api.types.Entry`: int64 is text).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from stepwrit.spiffe_id import SCHEME

_BREAK: Final = " \\\n    "


class NotEntries(ValueError):  # noqa: N818  reads as a state
    """The text is not what `spire-server entry show -output json` prints; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationEntry:
    """One entry. selectors: `type:value`. federates_with: names of trust domains. Times to live in seconds,
    0: the server's default. expires_at: of the entry, seconds since the epoch, 0: never. jti: each
    JWT-SVID has one.
    """

    spiffe_id: str
    parent_id: str = ""
    selectors: tuple[str, ...] = ()
    x509_ttl_s: int = 0
    jwt_ttl_s: int = 0
    federates_with: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    hint: str = ""
    admin: bool = False
    downstream: bool = False
    store_svid: bool = False
    no_prefetch: bool = False
    jti: bool = False
    expires_at: int = 0
    entry_id: str = ""

    def command(self) -> str:
        """The shell command that creates it, or that makes the one with `entry_id` be like this."""
        verb = "update" if self.entry_id else "create"
        return f"spire-server entry {verb}{_BREAK}" + _BREAK.join(self._flags())

    def _flags(self) -> Iterator[str]:
        """Every word that came from outside is quoted."""
        yield from (f"-{name} {shlex.quote(word)}" for name, word in self._words() if word)
        yield from (f"-{name}" for name, is_set in self._switches() if is_set)

    def _words(self) -> Iterator[tuple[str, str]]:
        yield "entryID", self.entry_id
        yield "parentID", self.parent_id
        yield "spiffeID", self.spiffe_id
        yield from (("selector", each) for each in self.selectors)
        yield "x509SVIDTTL", str(self.x509_ttl_s or "")
        yield "jwtSVIDTTL", str(self.jwt_ttl_s or "")
        yield from (("federatesWith", SCHEME + each) for each in self.federates_with)
        yield from (("dns", each) for each in self.dns_names)
        yield "hint", self.hint
        yield "entryExpiry", str(self.expires_at or "")

    def _switches(self) -> Iterator[tuple[str, bool]]:
        yield "admin", self.admin
        yield "downstream", self.downstream
        yield "storeSVID", self.store_svid
        yield "disableX509SVIDPrefetch", self.no_prefetch
        yield "jwtSVIDIncludeJTI", self.jti

    def as_data(self) -> dict[str, object]:
        """One of `entries` in what `-data` takes; what is empty is left out."""
        more = {"disable_x509_svid_prefetch": self.no_prefetch, "jwt_svid_include_jti": self.jti}
        members: dict[str, object] = {
            "entry_id": self.entry_id,
            "spiffe_id": self.spiffe_id,
            "parent_id": self.parent_id,
            "selectors": [_parted(each) for each in self.selectors],
            "x509_svid_ttl": self.x509_ttl_s,
            "jwt_svid_ttl": self.jwt_ttl_s,
            "federates_with": [SCHEME + each for each in self.federates_with],
            "dns_names": list(self.dns_names),
            "hint": self.hint,
            "admin": self.admin,
            "downstream": self.downstream,
            "store_svid": self.store_svid,
            "entryExpiry": self.expires_at,
            "additional_attributes": {name: True for name, is_set in more.items() if is_set},
        }
        return {name: value for name, value in members.items() if value}


def _parted(selector: str) -> dict[str, str]:
    kind, _, value = selector.partition(":")
    return {"type": kind, "value": value}


def shown_entries(text: str) -> tuple[RegistrationEntry, ...]:
    """The entries in what `spire-server entry show -output json` printed. Raises NotEntries."""
    try:
        said: Any = json.loads(text)
        return tuple(_shown(each) for each in said["entries"])
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise NotEntries(
            f"not the output of `spire-server entry show -output json` ({type(bad).__name__}: {bad})"
        ) from None


def _shown(said: Mapping[str, Any]) -> RegistrationEntry:
    more = cast("Mapping[str, Any]", said.get("additional_attributes") or {})
    return RegistrationEntry(
        entry_id=str(said["id"]),
        spiffe_id=_id(said["spiffe_id"]),
        parent_id=_id(said["parent_id"]),
        selectors=tuple(f"{each['type']}:{each['value']}" for each in said["selectors"]),
        x509_ttl_s=int(said.get("x509_svid_ttl", 0)),
        jwt_ttl_s=int(said.get("jwt_svid_ttl", 0)),
        federates_with=tuple(str(each).removeprefix(SCHEME) for each in said.get("federates_with", ())),
        dns_names=tuple(map(str, said.get("dns_names", ()))),
        hint=str(said.get("hint", "")),
        admin=bool(said.get("admin")),
        downstream=bool(said.get("downstream")),
        store_svid=bool(said.get("store_svid")),
        no_prefetch=bool(more.get("disable_x509_svid_prefetch")),
        jti=bool(more.get("jwt_svid_include_jti")),
        expires_at=int(said.get("expires_at", 0)),
    )


def _id(said: Mapping[str, Any]) -> str:
    return f"{SCHEME}{said['trust_domain']}{said['path']}"
