"""[sign_in]: the OpenID provider with which persons sign in to the approval pages, and may sign by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from stepwrit_broker.config_reader import Means

if TYPE_CHECKING:
    from stepwrit_broker.config import Config

NONE: Final = Path()
CALLBACK: Final = "/sign-in/oidc/callback"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInTable:
    """Where persons may sign in besides by passkey. The broker's own client there, which no agent shares; its
    redirect URI is `ISSUER/sign-in/oidc/callback`.
    """

    issuer: Annotated[str, Means(text="One of the `[[oidc]]`. Empty: passkeys and keys alone.")] = ""
    client_id: Annotated[str, Means(text="The broker's client at that provider.")] = ""
    label: Annotated[str, Means(text="What the pages call it. Empty: the host of its `issuer`.")] = ""
    acr: Annotated[
        tuple[str, ...],
        Means(
            text="Which authentications (`acr`) sign an approval, compared exactly. Empty: signing in there "
            "shows the pages and signs nothing."
        ),
    ] = ()
    auth: Annotated[
        Literal["none", "client_secret_basic", "private_key_jwt"],
        Means(text="How the client proves itself at the token endpoint; PKCE is always used."),
    ] = "none"
    secret_file: Annotated[
        Path, Means(text="For `client_secret_basic`: a file with the secret, not for others to read.")
    ] = NONE
    key_file: Annotated[
        Path, Means(text="For `private_key_jwt`: a P-256 private key, PEM, not for others to read.")
    ] = NONE
    scopes: Annotated[tuple[str, ...], Means(text="What is asked for; no more is needed.")] = ("openid",)


def sign_in_problems(config: Config) -> Iterator[str]:
    """Every problem of meaning, one a line."""
    table = config.sign_in
    if not table.issuer:
        if table != SignInTable():
            yield "sign_in.issuer: is needed with the rest of [sign_in]"
        return
    if table.issuer not in {each.issuer for each in config.oidc}:
        yield "sign_in.issuer: must be one of the [[oidc]] issuers, whose keys are known"
    if not table.client_id:
        yield "sign_in.client_id: is needed"
    if not config.listen.tls:
        yield "sign_in: needs the listener listen.tls, where the pages are"
    if (table.auth == "client_secret_basic") != (table.secret_file != NONE):
        yield 'sign_in.secret_file: goes with auth = "client_secret_basic"'
    if (table.auth == "private_key_jwt") != (table.key_file != NONE):
        yield 'sign_in.key_file: goes with auth = "private_key_jwt"'
    if "openid" not in table.scopes or not all(_is_word(each) for each in (*table.scopes, *table.acr)):
        yield "sign_in: scopes must have openid; scopes and acr are words without blanks"


def _is_word(text: str) -> bool:
    """RFC 6749 appendix A.4."""
    return text != "" and all("!" <= each <= "~" and each not in '"\\' for each in text)
