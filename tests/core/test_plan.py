from __future__ import annotations

import pytest

from stepwrit.digest import normalise_url
from stepwrit.wire import PlanItem
from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.plan import line_for

BANK = "https://bank.example"
BASED = "https://bank.example/api/"
PLAN = (
    PlanItem(at=BANK, method="POST", path="/v1/transfers"),
    PlanItem(at=BANK, method="GET", path="/v1/accounts/{account}/transfers", query=("page", "size")),
    PlanItem(at=BASED, method="GET", path="/v1/{a}/{b}"),
    PlanItem(at=BANK, method="GET", path="/v1/{id}"),
    PlanItem(at=BANK, method="DELETE", path="/v1/a%20b/"),
)


def fits(method: str, url: str, audience: str = BANK) -> int | None:
    try:
        return line_for(PLAN, method, url, audience)
    except Refused as refused:
        assert refused.code == "plan"  # noqa: PT017  the answer is None
        return None


@pytest.mark.parametrize(
    ("method", "url", "line"),
    [
        ("POST", "/v1/transfers", 0),
        ("GET", "/v1/accounts/7/transfers", 1),
        ("GET", "/v1/accounts/7/transfers?page=2", 1),
        ("GET", "/v1/accounts/7/transfers?size=1&page=2", 1),
        ("GET", "/v1/accounts/7/transfers?page=", 1),
        ("GET", "/v1/accounts/7/transfers?page", 1),
        ("GET", "/v1/accounts/7/transfers?", 1),
        ("GET", "/v1/accounts/a%20b/transfers", 1),
        ("GET", "/v1/accounts/%C3%A9/transfers", 1),
        ("GET", "/v1/7", 3),
        ("GET", "/v1/a%252Fb", 3),
        ("DELETE", "/v1/a%20b/", 4),
        # outside
        ("PUT", "/v1/transfers", None),
        ("post", "/v1/transfers", None),
        ("POST", "/v1/transfers/", None),
        ("POST", "/v1/transfers?x=1", None),
        ("POST", "/v1/Transfers", None),
        ("POST", "/v1", None),
        ("POST", "/v1/transfers/1", None),
        ("GET", "/v1/accounts//transfers", None),
        ("GET", "/v1/accounts/7%2F8/transfers", None),
        ("GET", "/v1/accounts/7%5C8/transfers", None),
        ("GET", "/v1/accounts/7%008/transfers", None),
        ("GET", "/v1/accounts/7%0A8/transfers", None),
        ("GET", "/v1/accounts/%FF/transfers", None),
        ("GET", "/v1/accounts/%C0%AF/transfers", None),
        ("GET", "/v1/accounts/7/transfers?page=1&admin=1", None),
        ("GET", "/v1/accounts/7/transfers?page=1;admin=1", None),
        ("GET", "/v1/accounts/7/transfers?%70age=1&Page=1", None),
        ("GET", "/v1/accounts/7/transfers?&&", None),
        ("GET", "/v1/accounts/7/transfers?=1", None),
        ("GET", "/v1/", None),
        ("DELETE", "/v1/a%20b", None),
    ],
)
def test_a_request_fits_its_line_of_the_plan_or_none(method: str, url: str, line: int | None) -> None:
    assert fits("POST", f"{BANK}/v1/transfers") == 0
    assert fits(method, BANK + url) == line


@pytest.mark.parametrize(
    "path",
    ["/v1/accounts/../transfers", "/v1/accounts/%2e%2e/transfers", "/v1/accounts/./transfers", "/v1/%2E"],
)
def test_dot_segments_never_fill_a_place_neither_raw_nor_normalised(path: str) -> None:
    assert fits("GET", BANK + path) is None
    normalised = normalise_url(BANK + path)
    assert fits("GET", normalised) in (None, 3)  # `/v1/transfers`: another request, and it says so itself


def test_another_origin_never_fits_whatever_its_path() -> None:
    for origin in (
        "https://evil.example",
        "http://bank.example",
        "https://bank.example:8443",
        "https://x@bank.example",
    ):
        assert fits("POST", f"{origin}/v1/transfers") is None


def test_the_audience_is_the_lines_own() -> None:
    assert fits("POST", f"{BANK}/v1/transfers", "https://other.example") is None
    assert fits("GET", f"{BANK}/api/v1/x/y", BASED) == 2
    assert fits("GET", f"{BANK}/v1/x/y", BASED) is None
    assert fits("GET", f"{BANK}/api/v1/x/y", BANK) is None


def test_no_plan_means_no_credential() -> None:
    with pytest.raises(Refused) as refused:
        line_for((), "GET", f"{BANK}/v1/7", BANK)
    assert refused.value.rule == "registry plan"
