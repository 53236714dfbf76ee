"""Who looks at a page: a sealed cookie. Nothing is kept of it here, and it signs nothing by itself.

    cookie = sessions.signed_in(identity, "passkey", now, authenticator="aut_…")

Whoever proves a person in another way calls `signed_in` too, and sends the header it returns.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from stepwrit.digest import DigestError, b64u, normalise_url, unb64u
from stepwrit_broker.core.errors import Refused, Unavailable, Unproven
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.edge.http import Request
from stepwrit_broker.flows.house import House

How = Literal["passkey", "oidc"]
COOKIE: Final = "__Host-stepwrit"
LIFE_S: Final = 900.0
FIELD: Final = "csrf"
_CONTEXT: Final = "session"
_ID_BYTES: Final = 16
_LONGEST: Final = 4_000
Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A signed-in person. id: random. at: when they signed in, seconds since the epoch.

    authenticator: with which passkey, None for another way.
    """

    id: str
    who: Identity
    how: How
    at: float
    authenticator: str | None = None


class Sessions:
    """Makes and reads the cookie. life_s: seconds from signing in; using it does not prolong it."""

    def __init__(self, house: House, life_s: float = LIFE_S) -> None:
        self._house, self.life_s = house, life_s
        parts = urlsplit(normalise_url(house.issuer))
        self._origin = f"{parts.scheme}://{parts.netloc}"

    def signed_in(self, who: Identity, how: How, at: float, *, authenticator: str | None = None) -> Header:
        """The header that begins a session."""
        name = b64u(self._house.entropy.bytes(_ID_BYTES))
        text = json.dumps([name, who.issuer, who.subject, how, at, authenticator])
        sealed = b64u(self._house.sealer.seal(text.encode(), _CONTEXT))
        return _cookie(sealed, int(self.life_s))

    def signed_out(self) -> Header:
        """The header that ends one in this browser."""
        return _cookie("", 0)

    async def of(self, request: Request) -> Session | None:
        """The session that came with a request, while it lives and its passkey counts."""
        sealed = _sent(request.header(b"cookie") or "")
        session = None if sealed is None else self._read(sealed)
        if session is None or session.authenticator is None:
            return session
        known = await self._house.approvals.authenticator(session.authenticator)
        return session if known is not None and known.state == "active" else None

    def _read(self, sealed: str) -> Session | None:
        try:
            text = self._house.sealer.open(unb64u(sealed[:_LONGEST]), _CONTEXT)
        except (DigestError, Unavailable):
            return None
        name, issuer, subject, how, at, authenticator = json.loads(text)
        if not 0 <= self._house.clock.now() - at < self.life_s:
            return None
        who = Identity(issuer, subject)
        return Session(id=name, who=who, how=how, at=at, authenticator=authenticator)

    def token(self, session: Session) -> str:
        """What every form of this session carries."""
        said = f"stepwrit form {session.id}"
        return b64u(hmac.new(self._house.pepper, said.encode(), hashlib.sha256).digest())

    def check_form(self, request: Request, session: Session) -> None:
        """The form came from our own page in this session. Raises Refused, Unproven(`invalid_proof`)."""
        self.check_origin(request)
        if not hmac.compare_digest(request.form().get(FIELD, "").encode(), self.token(session).encode()):
            raise Unproven(
                "invalid_proof", "this form is of another session; open the page again", rule="csrf"
            )

    def check_origin(self, request: Request) -> None:
        """The browser says that our own page sent this. Raises Refused(`access_denied`).

        Fetch Metadata first, which no page can forge; under `no-referrer` a form's Origin is `null`.
        """
        site, origin = request.header(b"sec-fetch-site"), request.header(b"origin")
        ours = site == "same-origin" and origin in (None, "null", self._origin)
        if not ours and not (site is None and origin == self._origin):
            raise Refused("access_denied", "this was not sent by a page of ours", rule="origin")


def is_foreign(request: Request) -> bool:
    """Whether a page elsewhere led here: then the browser keeps a strict cookie to itself."""
    return request.header(b"sec-fetch-site") in ("cross-site", "same-site")


def _cookie(value: str, life: int) -> Header:
    text = f"{COOKIE}={value}; Max-Age={life}; Path=/; Secure; HttpOnly; SameSite=Strict"
    return b"set-cookie", text.encode()


def _sent(cookies: str) -> str | None:
    """The one cookie of ours; of two neither counts."""
    pairs = [each.strip().partition("=") for each in cookies.split(";")]
    found = [value for name, _, value in pairs if name == COOKIE]
    return found[0] if len(found) == 1 else None
