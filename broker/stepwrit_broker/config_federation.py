"""[[federation]]: the foreign trust domains whose bundles this broker fetches itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from stepwrit_broker.config_reader import Means
from stepwrit_broker.core.workload import (
    DEV_TRUST_DOMAIN,
    SpiffeId,
    parse_spiffe_id,
    parse_trust_domain,
    trust_domain_of,
)

Profile = Literal["https_web", "https_spiffe"]
NONE: Final = Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationSource:
    """A foreign trust domain whose bundle the broker fetches from an endpoint. Only for domains that the
    Workload API does not hand out: each has one source. The registry's `trust_domains`, and the policy, must
    name it too.
    """

    trust_domain: Annotated[
        str,
        Means(text="Its name; never taken from the URL or the bundle.", example="partner.example"),
    ]
    url: Annotated[
        str,
        Means(
            text="The bundle endpoint, https. Redirects are not followed.",
            example="https://spiffe.partner.example/bundle.json",
        ),
    ]
    profile: Annotated[
        Profile,
        Means(
            text="Who the endpoint is: `https_web` by its host name, `https_spiffe` by its SPIFFE ID.",
            example="https_web",
        ),
    ]
    ca_file: Annotated[
        Path, Means(text="For `https_web`: a private CA, PEM. Empty: the CAs of this system.")
    ] = NONE
    endpoint_spiffe_id: Annotated[
        str, Means(text="For `https_spiffe`: the SPIFFE ID of the endpoint's server, needed there.")
    ] = ""
    bootstrap: Annotated[
        Path,
        Means(
            text="For `https_spiffe`: the domain's bundle as a file; by it the endpoint is known at first. "
            "Needed where the endpoint is a workload of that domain."
        ),
    ] = NONE
    max_age_s: Annotated[
        float,
        Means(
            text="After so long without a confirmation by the endpoint the domain's callers are refused.",
            unit="seconds",
            least=60,
        ),
    ] = 21_600.0


def federation_problems(home: str, sources: tuple[FederationSource, ...]) -> Iterator[str]:
    """Every problem of meaning, one a line."""
    for at, each in enumerate(sources):
        yield from (f"federation[{at}].{problem}" for problem in _problems(home, each))
    names = [each.trust_domain for each in sources]
    if len(set(names)) != len(names):
        yield "federation: names a trust domain twice; each has one source"


def _problems(home: str, source: FederationSource) -> Iterator[str]:
    try:
        domain = parse_trust_domain(source.trust_domain)
    except ValueError as bad:
        yield f"trust_domain: {bad}"
        return
    if domain == home:
        yield "trust_domain: is the broker's own, whose bundle only the Workload API gives"
    if domain == DEV_TRUST_DOMAIN:
        yield "trust_domain: is for development only"
    if not _is_endpoint(source.url):
        yield "url: must be an https URL with a host, without user, fragment or white space"
    if not 60 <= source.max_age_s <= 30 * 86_400:
        yield "max_age_s: must be between 60 and 2592000"
    yield from _by_web(source) if source.profile == "https_web" else _by_spiffe(source)


def _by_web(source: FederationSource) -> Iterator[str]:
    if source.endpoint_spiffe_id or source.bootstrap != NONE:
        yield "profile: https_web knows the endpoint by its host name; leave the others out, or https_spiffe"


def _by_spiffe(source: FederationSource) -> Iterator[str]:
    if source.ca_file != NONE:
        yield "ca_file: is for https_web; https_spiffe believes bundles only"
    try:
        endpoint: SpiffeId = parse_spiffe_id(source.endpoint_spiffe_id)
    except ValueError as bad:
        yield f"endpoint_spiffe_id: {bad}"
        return
    if trust_domain_of(endpoint) == source.trust_domain and source.bootstrap == NONE:
        yield "bootstrap: is needed, since the endpoint is of the domain itself"


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url and "#" not in url
    return named and plain and parts.scheme == "https" and "@" not in parts.netloc
