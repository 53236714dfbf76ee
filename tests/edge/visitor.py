"""Somebody at the pages without a browser: sends what a browser would, keeps the cookie, reads the forms."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx2
from tests.fakes.passkey import SoftPasskey
from tests.flows.rig import ISSUER, Rig

from stepwrit_broker.approvals.webauthn import WebAuthn
from stepwrit_broker.core.authenticator import Authenticator
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.edge.http import Receive, Scope, Send
from stepwrit_broker.edge.pages.app import Pages
from stepwrit_broker.flows import enrolling
from stepwrit_broker.observe import Metrics
from stepwrit_broker.wiring.paging import paged

RP = WebAuthn(ISSUER)
COOKIE = "__Host-stepwrit"


async def rest(_: Scope, __: Receive, send: Send) -> None:
    """What stands behind the pages."""
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b"rest"})


def pages_of(rig: Rig) -> Pages:
    return paged(rig.house, Metrics(), rest, session_s=900.0)


def soft(**how: Any) -> SoftPasskey:
    return SoftPasskey(origin=RP.origin, rp_id=RP.rp_id, **how)


async def registered(rig: Rig, key: SoftPasskey, who: Identity) -> Authenticator:
    """A passkey that counts, by the way of everybody."""
    made = await enrolling.invite(rig.house, "uid 0", who, "test")
    sealed = made.url.partition("#")[2]
    opened = await enrolling.open_invitation(rig.house, RP, sealed)
    said = key.make(dict(opened.options))
    new = await enrolling.propose(rig.house, RP, sealed, opened.nonce, said, "laptop")
    return await enrolling.decide(rig.house, "uid 0", new.id, "approve", "heard", new.fingerprint)


@dataclass
class Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[dict[str, str]] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.data["data-options"])
        return read


class Reader(HTMLParser):
    """The forms and the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), data=given))
        elif self.forms and tag in ("input", "textarea"):
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif self.forms and tag == "button":
            self.forms[-1].buttons.append(given)


class Visitor:
    """`await visitor.get(path)`, `await visitor.send(form, …)`; nothing is followed by itself."""

    def __init__(self, app: Pages, *, address: str = "192.0.2.1") -> None:
        transport = httpx2.ASGITransport(app=app, client=(address, 1), raise_app_exceptions=True)
        self._http = httpx2.AsyncClient(transport=transport, base_url=ISSUER)
        self.cookie: str | None = None

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, **how: Any) -> httpx2.Response:
        self._http.cookies.clear()  # the one below is kept here
        headers = {"sec-fetch-site": "same-origin", **how.pop("headers", {})}
        if self.cookie is not None:
            headers["cookie"] = f"{COOKIE}={self.cookie}"
        answer = await self._http.request(
            method, path, headers={name: value for name, value in headers.items() if value}, **how
        )
        set_to = re.search(rf"{COOKIE}=([^;]*);", answer.headers.get("set-cookie", ""))
        if set_to:
            self.cookie = set_to[1] or None
        return answer

    async def get(self, path: str, **how: Any) -> httpx2.Response:
        return await self.ask("GET", path, **how)

    async def form(self, path: str, action: str) -> Form:
        answer = await self.get(path)
        assert answer.status_code == 200, answer.text
        return next(each for each in Reader(answer.text).forms if each.action == action)

    async def send(self, form: Form, headers: dict[str, str] | None = None, **fields: str) -> httpx2.Response:
        data = {**form.fields, **fields}
        return await self.ask("POST", form.action, data=data, headers=headers or {})

    async def sign_in(self, key: SoftPasskey, to: str = "/approvals") -> httpx2.Response:
        form = await self.form(f"/sign-in?next={to}", "/sign-in")
        return await self.send(form, credential=key.sign(form.options))


def words(answer: httpx2.Response) -> str:
    """The text of a page, without its markup."""
    body = re.sub(r"<(script|style|title)\b.*?</\1>", " ", answer.text, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())
