"""Off to an identity provider and back, without a browser: cookies, forms, offers, what is on record."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from tests.edge.visitor import Reader, Visitor, registered, rest, soft, words
from tests.fakes.sign_ins import CODE, FakeSignIns
from tests.flows.rig import IDP, ISSUER, Rig
from tests.flows.test_approvals import ALICE, LISTED, asked

from stepwrit_broker.core.approval import ApprovalRecord
from stepwrit_broker.edge.pages.app import Pages
from stepwrit_broker.edge.pages.oidc import VISIT, ways
from stepwrit_broker.observe import Metrics
from stepwrit_broker.wiring.paging import paged

CALLBACK = "/sign-in/oidc/callback"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "store.db")
    rig.settings.registry = replace(rig.settings.registry, persons=LISTED)
    yield rig
    await rig.close()


@pytest.fixture
def idp(rig: Rig) -> FakeSignIns:
    return FakeSignIns(rig, "phr")


@pytest.fixture
def app(rig: Rig, idp: FakeSignIns) -> Pages:
    return paged(rig.house, Metrics(), rest, session_s=900.0, idp=idp)


class Traveller(Visitor):
    """A visitor who keeps the cookies of visits as well."""

    def __init__(self, app: Pages) -> None:
        super().__init__(app)
        self.visits: dict[str, str] = {}

    async def ask(self, method: str, path: str, **how: object) -> httpx2.Response:
        answer = await super().ask(method, path, **how)
        for name, value in re.findall(
            rf"({VISIT}[\w-]+)=([^;]*);", str(answer.headers.get_list("set-cookie"))
        ):
            self.visits[name] = value
        return answer

    def carried(self) -> dict[str, str]:
        """The header that a browser sends on its way back: a strict cookie stays at home."""
        pairs = "; ".join(f"{name}={value}" for name, value in self.visits.items() if value)
        return {"cookie": pairs, "sec-fetch-site": "cross-site"}

    async def back(self, state: str, headers: dict[str, str] | None = None, **more: str) -> httpx2.Response:
        mine, self.cookie = self.cookie, None
        query = urlencode({"code": CODE, "state": state, "iss": IDP, **more})
        answer = await self.ask("GET", f"{CALLBACK}?{query}", headers=headers or self.carried())
        self.cookie = self.cookie or mine
        return answer

    async def signed_in(self, to: str = "/approvals") -> httpx2.Response:
        return await self.back(state_of((await self.get(f"/sign-in/oidc?next={to}")).headers["location"]))


@pytest.fixture
async def alice(app: Pages) -> AsyncIterator[Traveller]:
    one = Traveller(app)
    yield one
    await one.close()


def state_of(address: str) -> str:
    return parse_qs(urlsplit(address).query)["state"][0]


def at(record: ApprovalRecord) -> str:
    return f"/approvals/{record.asked.id}"


async def leaving(visitor: Traveller, record: ApprovalRecord) -> httpx2.Response:
    return await visitor.send(await visitor.form(at(record), f"{at(record)}/oidc"))


def next_stop(page: httpx2.Response) -> str:
    """Where the page goes on to by itself, which is where its link leads."""
    tags = Reader(page.text).tags
    refresh = next(given["content"] for tag, given in tags if tag == "meta" and "http-equiv" in given)
    links = [given["href"] for tag, given in tags if tag == "a" and given.get("class") == "button"]
    assert [refresh.partition("url=")[2]] == links
    return links[0]


async def signs(visitor: Traveller, record: ApprovalRecord) -> httpx2.Response:
    return await visitor.back(state_of(next_stop(await leaving(visitor, record))))


async def state(rig: Rig, record: ApprovalRecord) -> str:
    found = await rig.store.approvals.approval(record.asked.id)
    assert found is not None
    return found.state


# --- the right use


async def test_signing_in_at_the_provider_begins_a_session(alice: Traveller, rig: Rig) -> None:
    assert "Sign in with Example ID" in words(await alice.get("/sign-in"))
    answer = await alice.signed_in("/authenticators")
    assert (answer.status_code, answer.headers["location"]) == (303, "/authenticators")
    assert "alice" in words(await alice.get("/approvals"))
    rig.clock.time += 900
    assert (await alice.get("/approvals")).status_code == 303


async def test_signing_in_anew_signs_the_approval_and_is_told_before(alice: Traveller, rig: Rig) -> None:
    record = await asked(rig, await rig.start())
    await alice.signed_in()
    page = await leaving(alice, record)
    assert "By signing in with Example ID now you sign this, once: Allow mail/pay once" in words(page)
    assert next_stop(page).startswith("https://idp.example/authorize?")
    answer = await alice.back(state_of(next_stop(page)))
    assert (answer.status_code, answer.headers["location"]) == (303, at(record))
    assert await state(rig, record) == "given"
    told = words(await alice.get(at(record)))
    assert "Approved" in told
    assert "signing in again" in told


async def test_a_person_with_a_passkey_has_both_ways(alice: Traveller, rig: Rig) -> None:
    record, key = await asked(rig, await rig.start()), soft()
    await registered(rig, key, ALICE)
    await alice.signed_in()
    told = words(await alice.get(at(record)))
    assert "Approve with passkey" in told
    assert "Approve by signing in with Example ID" in told
    form = await alice.form(at(record), f"{at(record)}/approve")
    await alice.send(form, credential=key.sign(form.options))
    assert await state(rig, record) == "given"


async def test_who_signs_is_remembered_whether_or_not_the_session_lives_on(
    alice: Traveller, rig: Rig
) -> None:
    await alice.signed_in()
    rig.clock.time, rig.people.claims = rig.clock.time + 800, {}
    record = await asked(rig, await rig.start())
    page = await leaving(alice, record)
    rig.clock.time += 200
    assert (await alice.back(state_of(next_stop(page)))).status_code == 303
    assert await state(rig, record) == "given"
    assert (await alice.get("/approvals")).status_code == 303


# --- what is offered


async def test_without_a_demanded_acr_signing_in_shows_and_signs_nothing(rig: Rig) -> None:
    weak, record = FakeSignIns(rig), await asked(rig, await rig.start())
    visitor = Traveller(paged(rig.house, Metrics(), rest, session_s=900.0, idp=weak))
    await visitor.signed_in()
    page = await visitor.get(at(record))
    assert "Approve by signing in" not in words(page)
    form = next(each for each in Reader(page.text).forms if each.action.endswith("/deny"))
    form.action = f"{at(record)}/oidc"
    assert (await visitor.send(form)).status_code == 403
    await visitor.close()


async def test_without_a_provider_there_is_no_such_way(rig: Rig) -> None:
    visitor = Traveller(paged(rig.house, Metrics(), rest, session_s=900.0))
    assert ways(None) == ((), ())
    assert "Sign in with" not in words(await visitor.get("/sign-in")).replace("Sign in with a passkey", "")
    assert (await visitor.get("/sign-in/oidc")).status_code == 404
    await visitor.close()


# --- cookies and forms


async def test_the_visits_cookie_is_sealed_bound_to_this_host_and_goes_when_it_was_used(
    alice: Traveller, idp: FakeSignIns
) -> None:
    out = await alice.get("/sign-in/oidc")
    (set_to,) = out.headers.get_list("set-cookie")
    name, _, value = set_to.partition(";")[0].partition("=")
    told = {each.strip() for each in set_to.split(";")[1:]}
    assert told == {"Max-Age=600", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"}
    state = state_of(out.headers["location"])
    assert name == VISIT + state[:16]
    assert state not in value
    back = await alice.back(state)
    kept, gone = sorted(back.headers.get_list("set-cookie"), key=len, reverse=True)
    assert kept.startswith("__Host-stepwrit=")
    assert gone.startswith(f"{name}=; Max-Age=0")


async def test_two_visits_at_once_do_not_disturb_each_other(alice: Traveller, rig: Rig) -> None:
    root = await rig.start()
    one, other = await asked(rig, root), await asked(rig, root)
    await alice.signed_in()
    first, second = [state_of(next_stop(await leaving(alice, each))) for each in (one, other)]
    assert (await alice.back(first)).headers["location"] == at(one)
    assert (await state(rig, one), await state(rig, other)) == ("given", "asked")
    assert (await alice.back(second)).headers["location"] == at(other)


async def test_in_another_browser_the_answer_is_nobodys(alice: Traveller, app: Pages) -> None:
    victim = Traveller(app)
    state = state_of((await alice.get("/sign-in/oidc")).headers["location"])
    for headers in ({"cookie": ""}, {"cookie": f"{VISIT}{state[:16]}=AAAA"}, victim.carried()):
        answer = await victim.back(state, headers | {"sec-fetch-site": "cross-site"})
        assert answer.status_code == 401
        assert victim.cookie is None
    twice = "; ".join(f"{name}={value}" for name, value in alice.visits.items() for _ in range(2))
    assert (await alice.back(state, {"cookie": twice, "sec-fetch-site": "cross-site"})).status_code == 401
    assert (await alice.back(state)).status_code == 303
    await victim.close()


async def test_one_answer_serves_once(alice: Traveller) -> None:
    state = state_of((await alice.get("/sign-in/oidc")).headers["location"])
    carried = alice.carried()
    assert (await alice.back(state, carried)).status_code == 303
    assert (await alice.back(state, carried)).status_code == 403


async def test_no_link_from_elsewhere_and_no_foreign_form_begins_a_signature(
    alice: Traveller, rig: Rig
) -> None:
    record = await asked(rig, await rig.start())
    await alice.signed_in()
    assert (await alice.get(f"{at(record)}/oidc")).status_code == 405
    form = await alice.form(at(record), f"{at(record)}/oidc")
    foreign = await alice.send(form, {"sec-fetch-site": "cross-site", "origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert (await alice.send(form, csrf="x")).status_code == 401
    assert not any(alice.visits.values())
    assert (await signs(alice, record)).status_code == 303


async def test_a_strangers_form_is_asked_who_they_are(alice: Traveller, app: Pages, rig: Rig) -> None:
    record, stranger = await asked(rig, await rig.start()), Traveller(app)
    await alice.signed_in()
    form = await alice.form(at(record), f"{at(record)}/oidc")
    answer = await stranger.send(form)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={at(record)}")
    await stranger.close()


@pytest.mark.parametrize("name", ["code", "state", "iss", "error"])
async def test_a_parameter_that_decides_is_there_once(alice: Traveller, name: str) -> None:
    state = state_of((await alice.get("/sign-in/oidc")).headers["location"])
    query = urlencode([("code", CODE), ("state", state), ("iss", IDP), (name, "x"), (name, "y")])
    answer = await alice.get(f"{CALLBACK}?{query}", headers=alice.carried())
    assert answer.status_code == 400
    assert (await alice.back(state, session_state="a", scope="openid")).status_code == 303


async def test_an_address_that_is_no_query_is_told_so(alice: Traveller) -> None:
    for query in ("%ff=%ff", "&".join(f"a{n}=1" for n in range(40))):
        assert (await alice.get(f"{CALLBACK}?{query}")).status_code == 400
    assert (await alice.get(CALLBACK)).status_code == 401


async def test_next_leads_to_a_page_of_ours_whatever_it_says(alice: Traveller) -> None:
    for wanted in ("https://evil.example", "//evil.example", "/sign-out"):
        assert (await alice.signed_in(wanted)).headers["location"] == "/approvals"


# --- on record


async def test_who_was_refused_as_they_signed_is_on_record(
    alice: Traveller, rig: Rig, idp: FakeSignIns
) -> None:
    record = await asked(rig, await rig.start())
    await alice.signed_in()
    idp.claims = {"acr": "weak"}
    answer = await signs(alice, record)
    assert answer.status_code == 401
    told = words(answer)
    assert "as strongly as an approval needs" in told
    (ref,) = re.findall(r"\b[0-9A-HJKMNP-TV-Z]{10}\b", told)
    (facts,) = [each for each in rig.entries("refused") if each["ref"] == ref]
    assert (facts["code"], facts["rule"], facts["role"]) == ("invalid_proof", "acr", "person")
    assert (facts["caller"], facts["approval"]) == (rig.house.opaque(ALICE), record.asked.id)
    assert await state(rig, record) == "asked"
    idp.claims = {}
    assert (await signs(alice, record)).status_code == 303


async def test_somebody_else_at_the_provider_signs_nothing(
    alice: Traveller, rig: Rig, idp: FakeSignIns
) -> None:
    record = await asked(rig, await rig.start())
    await alice.signed_in()
    idp.who = "bob"
    answer = await signs(alice, record)
    assert answer.status_code == 401
    assert "somebody else signed in" in words(answer).lower()
    assert await state(rig, record) == "asked"
    assert ISSUER not in words(answer)
