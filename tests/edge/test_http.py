from __future__ import annotations

import json
from typing import Any

import pytest

from stepwrit.wire import BODY_MAX_BYTES, CloseRequest, RequestDetails
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.edge.http import Message, Request, Response, receive_request, shaped

FORM = (b"content-type", b"application/x-www-form-urlencoded; charset=utf-8")
OPERATION = "0123456789abcdef"


def request(body: bytes = b"", *headers: tuple[bytes, bytes], path: str = "/v1/steps") -> Request:
    return Request(scope={"headers": list(headers)}, method="POST", path=path, body=body)


async def received(*messages: Message) -> Request:
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0)

    return await receive_request({"method": "POST", "path": "/x", "headers": []}, receive)


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_header_is_found_once_and_refused_twice() -> None:
    assert request(b"", (b"dpop", b"x"), (b"other", b"y")).header(b"dpop") == "x"
    assert request(b"").header(b"dpop") is None
    with pytest.raises(Malformed, match="more than once"):
        request(b"", (b"dpop", b"x"), (b"dpop", b"x")).header(b"dpop")


@pytest.mark.parametrize("name", [b"0" * 16, b"0" * 128, b"!~" * 8])
def test_an_operation_id_is_16_to_128_visible_characters(name: bytes) -> None:
    assert request(b"", (b"idempotency-key", name)).operation == name.decode()


@pytest.mark.parametrize(
    "name", [b"", b"0" * 15, b"0" * 129, b"0" * 15 + b" ", b"0" * 16 + b"\xe9", b"0" * 16 + b"\n"]
)
def test_another_operation_id_is_refused(name: bytes) -> None:
    with pytest.raises(Malformed, match="Idempotency-Key"):
        _ = request(b"", (b"idempotency-key", name)).operation
    with pytest.raises(Malformed):
        _ = request(b"").operation


def test_the_digest_names_path_and_body_and_cannot_be_shifted_between_them() -> None:
    one = request(b"b", path="/a").digest
    assert one == request(b"b", path="/a").digest
    assert (
        len(
            {
                one,
                request(b"c", path="/a").digest,
                request(b"b", path="/b").digest,
                request(b"", path="/ab").digest,
            }
        )
        == 4
    )


# --- bodies


async def test_a_body_in_parts_is_one_body() -> None:
    got = await received(part(b"a", more=True), part(b"b", more=True), {"type": "http.request"})
    assert (got.method, got.path, got.body) == ("POST", "/x", b"ab")


async def test_a_body_at_its_bound_passes_and_one_beyond_it_is_refused_before_all_of_it_came() -> None:
    assert len((await received(part(b"x" * BODY_MAX_BYTES))).body) == BODY_MAX_BYTES
    with pytest.raises(Malformed, match="larger"):
        await received(part(b"x" * BODY_MAX_BYTES, more=True), part(b"x", more=True))


async def test_half_a_body_never_stands_for_a_whole_one() -> None:
    assert (await received(part(b"a=1&b=", more=True), part(b"2"))).body == b"a=1&b=2"
    for messages in (
        [part(b"a=1&b=", more=True), {"type": "http.disconnect"}],
        [{"type": "http.disconnect"}],
    ):
        with pytest.raises(Malformed, match="ended before"):
            await received(*messages)


# --- forms


def test_a_parameter_without_a_value_is_as_if_it_were_not_there() -> None:
    assert request(b"a=1&b=&c=%2F+x", FORM).form() == {"a": "1", "c": "/ x"}


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b"a=1", (b"content-type", b"application/json")),
        (b"a=1", (b"x", b"y")),
        (b"a=1&a=2", FORM),
        (b"a=1&a=1", FORM),
        (b"a", FORM),
        (b"a=\xe9", FORM),
        (b"&".join(b"%d=1" % n for n in range(33)), FORM),
    ],
)
def test_what_is_not_one_clear_form_is_refused(body: bytes, header: tuple[bytes, bytes]) -> None:
    assert request(b"a=1", FORM).form() == {"a": "1"}
    with pytest.raises(Malformed):
        request(body, header).form()


# --- shapes

CLOSE = {"outcome": "done", "v": 1}


def test_a_good_body_becomes_its_shape() -> None:
    assert request(json.dumps(CLOSE).encode()).shape(CloseRequest) == CloseRequest(outcome="done")
    assert shaped(CloseRequest, '{"outcome":"done"}') == CloseRequest(outcome="done")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_arguments"),
        (b"{", "invalid_arguments"),
        (b'{"outcome":"done","outcome":"done"}', "invalid_arguments"),
        (b'{"outcome":"done","x":1e999}', "invalid_arguments"),
        (b'{"outcome":"\\ud800"}', "invalid_arguments"),
        (b"\xff", "invalid_arguments"),
        (b"[" * 100_000, "invalid_arguments"),
        (b"[]", "invalid_request"),
        (b'"x"', "invalid_request"),
        (b"{}", "invalid_request"),
        (b'{"outcome":"done","x":1}', "invalid_request"),
        (b'{"outcome":"other"}', "invalid_request"),
        (b'{"outcome":"done","v":2}', "upgrade_required"),
        (b'{"outcome":"done","v":0}', "upgrade_required"),
        (b'{"outcome":"done","v":[]}', "invalid_request"),
        (b'{"outcome":"done","v":{}}', "invalid_request"),
        (b'{"outcome":"done","v":"1"}', "invalid_request"),
        (b'{"outcome":"done","v":true}', "invalid_request"),
        (b'{"outcome":"done","v":null}', "invalid_request"),
    ],
)
def test_every_bad_body_gets_its_typed_no(raw: bytes, code: str) -> None:
    with pytest.raises(Malformed) as refused:
        shaped(CloseRequest, raw)
    assert refused.value.code == code
    assert len(refused.value.reason) < 300


def test_a_shape_without_a_version_has_none_to_check() -> None:
    with pytest.raises(Malformed, match="unknown member"):
        shaped(RequestDetails, b'{"type":"stepwrit_action","method":"GET","url":"u","body":"b","v":1}')


# --- answers


async def test_an_answer_is_json_that_nobody_caches() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Response(status=201, value={"a": "é"}, headers=((b"x", b"y"),)).send(send)
    start, body = sent
    headers: dict[bytes, Any] = dict(start["headers"])
    assert (start["status"], json.loads(body["body"])) == (201, {"a": "é"})
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"content-length"] == str(len(body["body"])).encode()
    assert (headers[b"content-type"], headers[b"x"]) == (b"application/json", b"y")


def test_an_operations_name_may_be_left_out_but_not_be_a_bad_one() -> None:
    assert request(b"").operation_or(lambda: "fresh") == "fresh"
    assert request(b"", (b"idempotency-key", b"0123456789abcdef")).operation_or(lambda: "fresh") != "fresh"
    for bad in (b"", b"short"):
        with pytest.raises(Malformed):
            request(b"", (b"idempotency-key", bad)).operation_or(lambda: "fresh")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"resource=a&resource=b", "invalid_target"),
        (b"audience=a&audience=a", "invalid_target"),
        (b"token=a&token=b", "invalid_request"),
    ],
)
def test_a_parameter_is_included_once(body: bytes, code: str) -> None:
    with pytest.raises(Malformed) as refused:
        request(body, FORM).form()
    assert refused.value.code == code
