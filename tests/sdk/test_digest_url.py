"""URLs in the one form that is hashed, and the digest of a request."""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwrit.digest import DigestError, b64u, body_digest, normalise_url, request_digest, request_digest_of


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://API.Example.COM", "https://api.example.com/"),
        ("https://api.example.com:443/a", "https://api.example.com/a"),
        ("http://api.example.com:80", "http://api.example.com/"),
        ("http://api.example.com:443/", "http://api.example.com:443/"),
        ("https://a:/x", "https://a/x"),
        ("https://a:08443/x", "https://a:8443/x"),
        ("https://a/%7euser/%2f/%c3%a9?q=%3d%41", "https://a/~user/%2F/%C3%A9?q=%3DA"),
        ("https://a/a/./b/../c", "https://a/a/c"),
        ("https://a/a/%2e%2E/c", "https://a/c"),
        ("https://a/../../c", "https://a/c"),
        ("https://a/b/..", "https://a/"),
        ("https://a/b/.", "https://a/b/"),
        ("https://a/b//../c", "https://a/b/c"),
        ("https://a//b", "https://a//b"),
        ("https://a/.well-known/x..y/...", "https://a/.well-known/x..y/..."),
        ("https://a/b?", "https://a/b?"),
        ("https://a?x=/../y", "https://a/?x=/../y"),
        ("https://a/b?filter[name]=x&b=1,2;c", "https://a/b?filter[name]=x&b=1,2;c"),
        ("https://[2001:DB8:0:0::1]:443/", "https://[2001:db8::1]/"),
        ("https://svc_a.ns.svc:8443/x;v=1/@b:c", "https://svc_a.ns.svc:8443/x;v=1/@b:c"),
    ],
)
def test_normal_forms_of_rfc_3986_section_6_2(url, normal):
    assert normalise_url(url) == normal
    assert normalise_url(normal) == normal


@pytest.mark.parametrize(
    "url",
    [
        "", "/a", "//a/b", "a/b", "ftp://a/", "https:/a", "https:a", "https://", "https:///a", "https://u@a/",
        "https://u:p@a/", "https://@a/", "https://a/#f", "https://a#", "https://a/ b", "https://a/b\n",
        "https://a/\tb",
        "https://a/é", "https://é/", "https://a/%", "https://a/%4", "https://a/%zz", "https://a/?%g1",
        "https://a:x/",
        "https://a:65536/", "https://a:443443/", "https://a:-1/", "https://[::1/", "https://[::g]/",
        "https://[1.2.3.4]/",
        "https://a\\b/", "https://a/b\\c", 'https://a/"', "https://a/<x>", "https://a%2eb/", " https://a/",
        "https://a/\x00", "https://a:\u0664\u0664\u0663/", "https://a b/", "https://a?<",
    ],
)  # fmt: skip
def test_other_references_are_refused(url):
    assert normalise_url("https://a/b?c") == "https://a/b?c"
    with pytest.raises(DigestError):
        normalise_url(url)


PIECE = st.text("aB9-._~%2e5F/:@!$&'()*+,;=[]|^", max_size=14)


@settings(max_examples=400, deadline=None)
@given(PIECE, PIECE)
def test_normalising_is_idempotent_and_keeps_host_and_query_apart(path, query):
    url = f"https://Api.example.com:443/{path}?{query}"
    try:
        normal = normalise_url(url)
    except DigestError:
        return
    assert normalise_url(normal) == normal
    assert urlsplit(normal).hostname == "api.example.com"
    assert not {".", ".."} & set(urlsplit(normal).path.split("/"))
    assert normal.startswith("https://api.example.com/")


def test_a_request_digest_is_the_hash_of_the_canonical_method_url_and_body_digest():
    expected = rfc8785.dumps({"m": "POST", "u": "https://api.example.com/a?b=1", "d": body_digest(b"{}")})
    assert request_digest("POST", "https://API.example.com:443/a?b=1", b"{}") == b64u(
        hashlib.sha256(expected).digest()
    )
    assert request_digest("GET", "https://a/", b"") == request_digest_of(
        "GET", "https://a/", body_digest(b"")
    )


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("GET", "https://a/b?c=1", b"x"), ("post", "https://a/b?c=1", b"x"), ("POST", "http://a/b?c=1", b"x"),
        ("POST", "https://a/b/?c=1", b"x"), ("POST", "https://a/b", b"x"), ("POST", "https://a/b?c=1", b""),
        ("POST", "https://a:8443/b?c=1", b"x"), ("POST", "https://a/b?c=1", b"x "),
        ("POST", "https://a/B?c=1", b"x"),
    ],
)  # fmt: skip
def test_every_part_of_a_request_counts(method, url, body):
    assert request_digest("POST", "https://A:443/b?c=1", b"x") == request_digest(
        "POST", "https://a/b?c=1", b"x"
    )
    assert request_digest(method, url, body) != request_digest("POST", "https://a/b?c=1", b"x")


@pytest.mark.parametrize("method", ["", "GET ", "G\nT", "GÉT", "A" * 33, "GET/1"])
def test_a_method_is_an_http_token(method):
    assert request_digest("M-SEARCH", "https://a/", b"")
    with pytest.raises(DigestError):
        request_digest(method, "https://a/", b"")
