"""What an operator does with a SPIRE server: entries, agents, bundles, authorities, federation.

Each verb is one run of `spire-server` against the server's private socket. Field names are those of SPIRE.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Authority = Literal["x509", "jwt"]
_WITHIN_S: Final = 60.0


class Refused(RuntimeError):  # noqa: N818  reads as a state
    """The server said no, or nothing; the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registration entry.

    selectors: all must fit, such as `unix:path:/usr/bin/x`. parent: the agent's ID. TTLs: seconds, 0 the
    server's default. federates_with: trust domains whose bundles the workload gets, such as `b.test`.
    """

    spiffe_id: str
    parent: str
    selectors: tuple[str, ...]
    hint: str = ""
    x509_ttl_s: int = 0
    jwt_ttl_s: int = 0
    federates_with: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()

    def flags(self) -> list[str]:
        """As `entry create` and `entry update` take it."""
        lists = {
            "-selector": self.selectors,
            "-federatesWith": [f"spiffe://{each}" for each in self.federates_with],
            "-dns": self.dns_names,
        }
        said = ["-spiffeID", self.spiffe_id, "-parentID", self.parent, "-hint", self.hint]
        said += ["-x509SVIDTTL", str(self.x509_ttl_s), "-jwtSVIDTTL", str(self.jwt_ttl_s)]
        return said + [word for flag, values in lists.items() for value in values for word in (flag, value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """A federation relationship.

    endpoint_id: the bundle endpoint's SPIFFE ID makes the profile `https_spiffe`, None `https_web`.
    bundle: the other domain's first bundle, a SPIFFE JSON document; `https_spiffe` cannot begin without.
    """

    trust_domain: str
    url: str
    endpoint_id: str | None = None
    bundle: str | None = None


class ServerApi:
    """The operator's verbs. binary: `spire-server`. socket: of the server's private API. Raises Refused."""

    def __init__(self, binary: Path, socket: Path) -> None:
        self._binary, self._socket = binary, socket

    async def run(self, *verb: str, given: str | None = None) -> str:
        """Any verb of `spire-server`, such as `run("entry", "count")`; `given` is its standard input."""
        return await asyncio.to_thread(self._run, verb, given)

    async def ask(self, *verb: str, given: str | None = None) -> dict[str, Any]:
        """A verb whose answer is a JSON object. A batch of which one item failed is refused as a whole."""
        answer: dict[str, Any] = json.loads(await self.run(*verb, "-output", "json", given=given) or "{}")
        for each in answer.get("results", []):
            if each["status"]["code"] != 0:
                raise Refused(f"spire-server {' '.join(_split(verb)[0])}: {each['status']['message']}")
        return answer

    # --- agents

    async def join_token(self, *, ttl_s: int = 600) -> str:
        """A token for one node attestation."""
        return str((await self.ask("token", "generate", "-ttl", str(ttl_s)))["value"])

    async def agents(self) -> list[dict[str, Any]]:
        """The attested agents."""
        return list((await self.ask("agent", "list")).get("agents", []))

    async def evict_agent(self, spiffe_id: str) -> None:
        """Forget an agent: it must attest again. A join token is good for one time only."""
        await self.ask("agent", "evict", "-spiffeID", spiffe_id)

    async def ban_agent(self, spiffe_id: str) -> None:
        """Forget an agent and never attest it again."""
        await self.ask("agent", "ban", "-spiffeID", spiffe_id)

    # --- registration entries

    async def create_entry(self, entry: Entry) -> str:
        """The new entry's number."""
        return (await self.create_entries([entry]))[0]

    async def create_entries(self, entries: Iterable[Entry]) -> list[str]:
        """Several at once, in one run; their numbers in the same order."""
        document = {"entries": [_registration(each) for each in entries]}
        answer = await self.ask("entry", "create", "-data", "-", given=json.dumps(document))
        return [str(each["entry"]["id"]) for each in answer["results"]]

    async def update_entry(self, number: str, entry: Entry) -> None:
        """Replace an entry."""
        await self.ask("entry", "update", "-entryID", number, *entry.flags())

    async def delete_entry(self, number: str) -> None:
        """Its workloads lose the identity with the agent's next synchronisation."""
        await self.ask("entry", "delete", "-entryID", number)

    async def entries(self) -> list[dict[str, Any]]:
        """All of them."""
        return list((await self.ask("entry", "show")).get("entries", []))

    # --- bundles

    async def bundle(self, form: Literal["pem", "spiffe"] = "spiffe") -> str:
        """The server's own bundle: a SPIFFE JSON document, or its X.509 authorities in PEM."""
        return await self.run("bundle", "show", "-format", form)

    async def foreign_bundles(self) -> dict[str, Any]:
        """Trust domain -> bundle, as the server prints it."""
        listed = (await self.ask("bundle", "list")).get("bundles", [])
        return {each["trust_domain"]: each for each in listed}

    async def set_bundle(self, trust_domain: str, document: str) -> None:
        """Another domain's bundle, a SPIFFE JSON document."""
        await self.ask(
            "bundle", "set", "-id", f"spiffe://{trust_domain}", "-format", "spiffe", given=document
        )

    async def delete_bundle(self, trust_domain: str) -> None:
        """Another domain's bundle is withdrawn; entries that federate with it stay, without it."""
        await self.ask("bundle", "delete", "-id", f"spiffe://{trust_domain}", "-mode", "dissociate")

    # --- the server's own authorities

    async def authorities(self, kind: Authority) -> dict[str, Any]:
        """`active`, `prepared` and `old`, each with `authority_id`."""
        return await self.ask("localauthority", kind, "show")

    async def prepare_authority(self, kind: Authority) -> str:
        """A next authority, published and not yet used; its number."""
        answer = await self.ask("localauthority", kind, "prepare")
        return str(answer["prepared_authority"]["authority_id"])

    async def activate_authority(self, kind: Authority, number: str) -> None:
        """What is prepared signs from now on."""
        await self.ask("localauthority", kind, "activate", "-authorityID", number)

    async def taint_authority(self, kind: Authority, number: str) -> None:
        """What an old authority signed is replaced at once."""
        await self.ask("localauthority", kind, "taint", "-authorityID", number)

    async def revoke_authority(self, kind: Authority, number: str) -> None:
        """A tainted authority leaves the bundle."""
        await self.ask("localauthority", kind, "revoke", "-authorityID", number)

    # --- federation

    async def federate(self, partner: Federation) -> None:
        """Follow another domain's bundle endpoint."""
        document = json.dumps({"federationRelationships": [_relationship(partner)]})
        await self.ask("federation", "create", "-data", "-", given=document)

    async def refresh(self, trust_domain: str) -> None:
        """Fetch a partner's bundle now. Refused where its endpoint does not answer as it must."""
        await self.ask("federation", "refresh", "-id", trust_domain)

    async def end_federation(self, trust_domain: str) -> None:
        """Follow a partner's endpoint no longer; its bundle stays until `delete_bundle`."""
        await self.ask("federation", "delete", "-id", trust_domain)

    def _run(self, verb: Sequence[str], given: str | None) -> str:
        command, flags = _split(verb)
        done = subprocess.run(  # noqa: S603  our own tool
            [self._binary, *command, "-socketPath", self._socket, *flags],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-600:]
            raise Refused(f"spire-server {' '.join(command)}: {said}")
        return done.stdout


def _split(verb: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a verb, and its flags."""
    at = next((number for number, word in enumerate(verb) if word.startswith("-")), len(verb))
    return list(verb[:at]), list(verb[at:])


def _registration(entry: Entry) -> dict[str, Any]:
    selectors = [each.partition(":") for each in entry.selectors]
    return {
        "spiffe_id": entry.spiffe_id,
        "parent_id": entry.parent,
        "selectors": [{"type": kind, "value": value} for kind, _, value in selectors],
        "hint": entry.hint,
        "x509_svid_ttl": entry.x509_ttl_s,
        "jwt_svid_ttl": entry.jwt_ttl_s,
        "federates_with": [f"spiffe://{each}" for each in entry.federates_with],
        "dns_names": list(entry.dns_names),
    }


def _relationship(partner: Federation) -> dict[str, Any]:
    bundle = {"trustDomainBundle": json.loads(partner.bundle or "{}"), "trustDomainBundleFormat": "spiffe"}
    return {
        "trustDomain": partner.trust_domain,
        "bundleEndpointURL": partner.url,
        "bundleEndpointProfile": "https_spiffe" if partner.endpoint_id else "https_web",
        **({"endpointSPIFFEID": partner.endpoint_id} if partner.endpoint_id else {}),
        **(bundle if partner.bundle else {}),
    }
