"""The relying party at a provider made of a standard library, and at providers that are not right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.approvals.authlib_provider import AuthlibProvider, Client

from stepwrit.clock import SystemEntropy
from stepwrit.jws import SigningKey
from stepwrit_broker.approvals.oidc import CACHE_S, RETRY_S, OidcSignIns, Provider
from stepwrit_broker.attest.person import Issuer, OidcPeople
from stepwrit_broker.clock import SystemClock
from stepwrit_broker.core.errors import Refused, Unavailable, Unproven
from stepwrit_broker.edge.listeners import plain_listener
from stepwrit_broker.ports_approval import Leaving

REDIRECT = "https://broker.test/sign-in/oidc/callback"
LEAVING = Leaving(state="s" * 43, nonce="n" * 43, verifier="v" * 43, max_age_s=0, step_up=True)
KEY = SigningKey.generate()


@dataclass
class Ticking:
    """The Clock port, moved by hand from the machine's time on."""

    ahead: float = 0.0

    def now(self) -> float:
        return SystemClock().now() + self.ahead


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient() as client:
        yield client


def rp(url: str, http: httpx2.AsyncClient, clock: Any = None, **changes: Any) -> OidcSignIns:
    given: dict[str, Any] = {
        "issuer": url, "client_id": "pages", "redirect_uri": REDIRECT, "label": "X", "acr": ("phr", "phrh"),
    }  # fmt: skip
    return OidcSignIns(Provider(**{**given, **changes}), http, clock or SystemClock(), SystemEntropy())


async def visited(http: httpx2.AsyncClient, address: str) -> dict[str, str]:
    answer = await http.get(address)
    assert answer.status_code == 302, answer.text
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "none": ({}, {}, {}),
    "client_secret_basic": ({"secret": "p%a:ss wörd"}, {"secret": "p%a:ss wörd"}, {"secret": "other"}),
    "private_key_jwt": (
        {"jwk": KEY.public_jwk, "method": "client_assertion_jwt"}, {"key": KEY},
        {"key": SigningKey.generate()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_authlibs_provider_takes_our_requests_and_we_its_id_token(
    http: httpx2.AsyncClient, way: str
) -> None:
    registered, ours, wrong = WAYS[way]
    client = Client(**{"client_id": "pages", "redirect_uri": REDIRECT, "method": way, **registered})
    async with AuthlibProvider(client) as provider:
        own = rp(provider.url, http, auth=way, **ours)
        people = OidcPeople((Issuer(issuer=provider.url, algorithms=("ES256",)),), http)
        answer = await visited(http, await own.address(LEAVING))
        if wrong:
            stranger = rp(provider.url, http, auth=way, **wrong)
            with pytest.raises(Unproven, match="did not take the code"):
                await stranger.redeem(answer, LEAVING)
        proof = await people.judge(await own.redeem(answer, LEAVING), SystemClock().now())
        assert (proof.subject, proof.clients, proof.acr) == ("alice", ("pages",), "phr")
        assert proof.nonce == LEAVING.nonce
        assert set(proof.key) == {"kty", "crv", "x", "y", "alg", "kid"}
        with pytest.raises(Unproven, match="did not take the code"):
            await own.redeem(answer, LEAVING)


async def test_authlibs_provider_sends_no_iss_and_needs_none(http: httpx2.AsyncClient) -> None:
    """RFC 9207 section 2.4: who does not say that it sends one need not; another one is refused."""
    client = Client(client_id="pages", redirect_uri=REDIRECT, method="none")
    async with AuthlibProvider(client) as provider:
        own = rp(provider.url, http)
        answer = await visited(http, await own.address(LEAVING))
        assert "iss" not in answer
        with pytest.raises(Unproven, match="another identity provider"):
            await own.redeem({**answer, "iss": "https://evil.example"}, LEAVING)
        assert await own.redeem({**answer, "iss": provider.url}, LEAVING)


# --- providers that are not right


class Odd:
    """A provider whose metadata and token answers are what a test says."""

    def __init__(self) -> None:
        self.metadata: Callable[[], Response] = lambda: JSONResponse(self.good())
        self.token: Callable[[], Response] = lambda: JSONResponse({"id_token": "a.b.c"})
        self.asked = 0
        self._listener = plain_listener("127.0.0.1", 0, name="odd")

    @property
    def url(self) -> str:
        return self._listener.url

    def good(self, **changes: Any) -> dict[str, Any]:
        made = {
            "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token", "code_challenge_methods_supported": ["plain", "S256"],
        }  # fmt: skip
        return {name: value for name, value in {**made, **changes}.items() if value is not None}

    async def start(self) -> None:
        async def configuration(_: Request) -> Response:
            self.asked += 1
            return self.metadata()

        async def token(_: Request) -> Response:
            return self.token()

        routes = [
            Route("/.well-known/openid-configuration", configuration),
            Route("/token", token, methods=["POST"]),
        ]
        await self._listener.start(Starlette(routes=routes))

    async def stop(self) -> None:
        await self._listener.stop()


@pytest.fixture
async def odd() -> AsyncIterator[Odd]:
    made = Odd()
    await made.start()
    yield made
    await made.stop()


METADATA: dict[str, Callable[[Odd], Response]] = {
    "another issuer's": lambda o: JSONResponse(o.good(issuer="https://evil.example")),
    "an issuer with a slash": lambda o: JSONResponse(o.good(issuer=f"{o.url}/")),
    "no PKCE": lambda o: JSONResponse(o.good(code_challenge_methods_supported=[])),
    "plain PKCE alone": lambda o: JSONResponse(o.good(code_challenge_methods_supported=["plain"])),
    "PKCE as text": lambda o: JSONResponse(o.good(code_challenge_methods_supported="S256")),
    "no authorization endpoint": lambda o: JSONResponse(o.good(authorization_endpoint=None)),
    "no token endpoint": lambda o: JSONResponse(o.good(token_endpoint=None)),
    "a token endpoint without TLS": lambda o: JSONResponse(o.good(token_endpoint="http://far.example/t")),
    "an endpoint that is a script": lambda o: JSONResponse(
        o.good(authorization_endpoint="javascript:alert(1)")
    ),
    "an endpoint with a password": lambda o: JSONResponse(o.good(token_endpoint="https://u:p@h.example/t")),
    "an endpoint with a fragment": lambda o: JSONResponse(
        o.good(authorization_endpoint="https://h.example/#x")
    ),
    "an endpoint that is a number": lambda o: JSONResponse(o.good(token_endpoint=7)),
    "a list": lambda o: JSONResponse([]),
    "text": lambda o: Response("hello"),
    "what is too large": lambda o: JSONResponse(o.good(pad="x" * 300_000)),
    "an error": lambda o: JSONResponse(o.good(), status_code=500),
    "a redirect": lambda o: Response(status_code=302, headers={"location": "https://evil.example/"}),
}


@pytest.mark.parametrize("which", METADATA)
async def test_metadata_that_is_not_right_is_doubt_until_it_is(
    odd: Odd, http: httpx2.AsyncClient, which: str
) -> None:
    clock = Ticking()
    own = rp(odd.url, http, clock)
    odd.metadata = lambda: METADATA[which](odd)
    for _ in range(3):
        with pytest.raises(Unavailable, match="identity provider"):
            await own.address(LEAVING)
    assert odd.asked == 1, "asked again only after a while"
    odd.metadata = lambda: JSONResponse(odd.good())
    clock.ahead = RETRY_S + 1
    assert (await own.address(LEAVING)).startswith(f"{odd.url}/authorize?")


async def test_what_is_known_serves_on_while_the_provider_is_away(odd: Odd, http: httpx2.AsyncClient) -> None:
    clock = Ticking()
    own = rp(odd.url, http, clock)
    first = await own.address(LEAVING)
    odd.metadata = lambda: JSONResponse({}, status_code=503)
    clock.ahead = CACHE_S + 1
    assert await own.address(LEAVING) == first
    assert odd.asked == 2


@pytest.mark.parametrize(
    ("says", "can"), [(["phr", "phrh", 7], {"phr", "phrh"}), ("phr", set()), (None, set()), ([], set())]
)
async def test_what_a_provider_says_that_it_can(
    odd: Odd, http: httpx2.AsyncClient, says: object, can: set[str]
) -> None:
    odd.metadata = lambda: JSONResponse(odd.good(acr_values_supported=says))
    assert await rp(odd.url, http).reached() == can


async def test_an_authorization_endpoint_may_have_a_query(odd: Odd, http: httpx2.AsyncClient) -> None:
    odd.metadata = lambda: JSONResponse(odd.good(authorization_endpoint="https://h.example/a?tenant=1"))
    asked = httpx2.URL(await rp(odd.url, http).address(LEAVING))
    assert (asked.params["tenant"], asked.params["acr_values"]) == ("1", "phr phrh")


TOKENS: dict[str, tuple[Callable[[], Response], type[Exception]]] = {
    "a refusal": (lambda: JSONResponse({"error": "invalid_grant"}, status_code=400), Unproven),
    "a client that it does not know": (lambda: JSONResponse({}, status_code=401), Unproven),
    "no ID token": (lambda: JSONResponse({"access_token": "a"}), Unproven),
    "an ID token that is none": (lambda: JSONResponse({"id_token": ["a"]}), Unproven),
    "a redirect": (lambda: Response(status_code=307, headers={"location": "https://evil.example"}), Unproven),
    "an error of its own": (lambda: JSONResponse({}, status_code=502), Unavailable),
    "too many requests": (lambda: JSONResponse({}, status_code=429), Unavailable),
    "text": (lambda: Response("hello"), Unavailable),
    "a list": (lambda: JSONResponse([]), Unavailable),
    "what is too large": (lambda: JSONResponse({"id_token": "x" * 300_000}), Unavailable),
}


@pytest.mark.parametrize("which", TOKENS)
async def test_a_token_endpoint_that_gives_no_id_token_gives_nothing(
    odd: Odd, http: httpx2.AsyncClient, which: str
) -> None:
    own, (answer, error) = rp(odd.url, http), TOKENS[which]
    assert await own.redeem({"code": "c"}, LEAVING) == "a.b.c"
    odd.token = answer
    with pytest.raises(error):
        await own.redeem({"code": "c"}, LEAVING)


async def test_nobody_there_is_doubt(odd: Odd, http: httpx2.AsyncClient) -> None:
    own = rp(odd.url, http)
    assert await own.redeem({"code": "c"}, LEAVING)
    await odd.stop()
    with pytest.raises(Unavailable, match="identity provider"):
        await own.redeem({"code": "c"}, LEAVING)
    with pytest.raises(Unavailable, match="identity provider"):
        await rp("http://127.0.0.1:1", http).address(LEAVING)


async def test_an_error_counts_before_a_code(odd: Odd, http: httpx2.AsyncClient) -> None:
    with pytest.raises(Refused, match="login_required"):
        await rp(odd.url, http).redeem({"code": "c", "error": "login_required"}, LEAVING)
