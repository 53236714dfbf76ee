"""SPIFFE IDs by themselves."""

from __future__ import annotations

from tests.refusals.case import Case

VALID = {
    "plain": "spiffe://a.test/agent",
    "whole-alphabet": "spiffe://a-b_c.9/A-z_0.9/..x/...",
    "longest": "spiffe://a.test/" + "x" * 2032,
    "longest-domain": "spiffe://" + "a" * 255 + "/x",
}
# name, row, twin, ID
BAD = [
    ("root", "root-id", "plain", "spiffe://a.test"),
    ("root-and-slash", "root-id", "plain", "spiffe://a.test/"),
    ("https", "foreign-scheme", "plain", "https://a.test/agent"),
    ("upper-scheme", "foreign-scheme", "plain", "SPIFFE://a.test/agent"),
    ("no-scheme", "foreign-scheme", "plain", "a.test/agent"),
    ("one-slash", "foreign-scheme", "plain", "spiffe:/a.test/agent"),
    ("space-before", "foreign-scheme", "plain", " spiffe://a.test/agent"),
    ("empty", "foreign-scheme", "plain", ""),
    ("upper-domain", "upper-domain", "plain", "spiffe://A.test/agent"),
    ("kelvin-domain", "upper-domain", "plain", "spiffe://\u212aa.test/agent"),
    ("percent", "odd-path", "whole-alphabet", "spiffe://a.test/%61gent"),
    ("dot", "odd-path", "whole-alphabet", "spiffe://a.test/./agent"),
    ("dot-dot", "odd-path", "whole-alphabet", "spiffe://a.test/x/../agent"),
    ("doubled-slash", "odd-path", "whole-alphabet", "spiffe://a.test//agent"),
    ("slash-at-end", "odd-path", "whole-alphabet", "spiffe://a.test/agent/"),
    ("line-break", "odd-path", "whole-alphabet", "spiffe://a.test/agent\n"),
    ("nul", "odd-path", "whole-alphabet", "spiffe://a.test/agent\x00"),
    ("not-ascii", "odd-path", "whole-alphabet", "spiffe://a.test/ag\u00e9nt"),
    ("no-domain", "odd-domain", "plain", "spiffe:///agent"),
    ("port", "odd-domain", "plain", "spiffe://a.test:443/agent"),
    ("user", "odd-domain", "plain", "spiffe://me@a.test/agent"),
    ("query", "odd-domain", "plain", "spiffe://a.test/agent?x"),
    ("fragment", "odd-domain", "plain", "spiffe://a.test/agent#x"),
    ("long-domain", "odd-domain", "longest-domain", "spiffe://" + "a" * 256 + "/x"),
    ("too-long", "odd-domain", "longest", "spiffe://a.test/" + "x" * 2033),
]


def cases() -> list[Case]:
    """All of the family."""
    good = [Case(name=f"id/{name}", family="id", reading="id", input=text) for name, text in VALID.items()]
    bad = [
        Case(
            name=f"id/{name}",
            family="id",
            reading="id",
            input=text,
            row=row,
            code="refused",
            twin=f"id/{twin}",
        )
        for name, row, twin, text in BAD
    ]
    return [*good, *bad]
