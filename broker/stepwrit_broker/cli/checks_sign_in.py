"""Whether the provider of [sign_in] can be reached, and can what the settings demand. Nobody is signed in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2

from stepwrit_broker.approvals.oidc import OidcSignIns, Provider
from stepwrit_broker.cli.check import Check
from stepwrit_broker.clock import SystemClock, SystemEntropy
from stepwrit_broker.config import Config
from stepwrit_broker.core.errors import Malformed, Unavailable
from stepwrit_broker.wiring.signing_in import provider_of

_NAME = "sign_in"


def sign_in_check(config: Config) -> Iterator[Check]:
    """One check; none where no provider is named."""
    try:
        provider = provider_of(config)
        if provider is not None:
            yield _told(provider, asyncio.run(_reached(provider)))
    except Malformed as bad:
        todo = "mend the file, as the broker's user"
        yield Check(name=_NAME, ok=False, said=bad.reason, todo=todo)
    except Unavailable:
        said = f"{config.sign_in.issuer} cannot be reached, has no PKCE with S256, or names another issuer"
        todo = (
            f"look at {config.sign_in.issuer.rstrip('/')}/.well-known/openid-configuration from this machine"
        )
        yield Check(name=_NAME, ok=False, said=said, todo=todo)


def _told(provider: Provider, can: frozenset[str]) -> Check:
    missing = sorted(set(provider.acr) - can) if can else []
    if missing:
        said = f"{provider.issuer} does not say that it can acr {', '.join(missing)}"
        todo = f"it says {', '.join(sorted(can))}: choose from these in broker.toml [sign_in] acr"
        return Check(name=_NAME, ok=None, said=said, todo=todo)
    if not provider.acr:
        return Check(
            name=_NAME, ok=True, said=f"{provider.issuer}, to see the pages; no acr, so nobody signs by it"
        )
    return Check(name=_NAME, ok=True, said=f"{provider.issuer}, redirect URI {provider.redirect_uri}")


async def _reached(provider: Provider) -> frozenset[str]:
    async with httpx2.AsyncClient() as http:
        return await OidcSignIns(provider, http, SystemClock(), SystemEntropy()).reached()
