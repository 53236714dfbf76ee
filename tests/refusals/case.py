"""The shapes of the generated material."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes.pki import FakeCa
from tests.refusals.rows import Family

from stepwrit.spiffe_bundle import JwtAuthorities, parse_bundle

NOW = 1_900_000_000.0  # 17 March 2030: every verifier of ours is told that it is this moment
DECADE = 315_576_000.0
DOMAIN, PARTNER, EMPTY, UNKNOWN = "a.test", "b.test", "empty.test", "c.test"
AGENT = f"spiffe://{DOMAIN}/agent"
AUDIENCE = "https://broker.stage.test"
MAX_LIFE_S = 300.0

Reading = Literal["chain", "token", "bundle", "bundle-map", "update", "id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The bundles that a case is judged by. x509: domain -> CA certificates. jwks: domain -> JWK set."""

    name: str
    x509: Mapping[str, tuple[bytes, ...]]
    jwks: Mapping[str, list[dict[str, str]]]

    @property
    def jwt(self) -> dict[str, JwtAuthorities]:
        """As verifiers hold them."""
        return {
            name: parse_bundle(json.dumps({"keys": keys}).encode(), name).jwt
            for name, keys in self.jwks.items()
        }

    def document(self) -> bytes:
        """All of it as one bundle map (SPIFFE_Trust_Domain_and_Bundle.md section 4.4)."""
        domains = {
            name: {"keys": [*(x509_key(der) for der in self.x509.get(name, ())), *self.jwks.get(name, [])]}
            for name in sorted({*self.x509, *self.jwks})
        }
        return json.dumps({"trust_domains": domains}, indent=1).encode()


def x509_key(der: bytes) -> dict[str, Any]:
    """An X.509 authority as a bundle names it; verifiers read nothing but `use` and `x5c`."""
    return {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(der).decode()]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input with its verdict.

    row: of `rows`. code: the fault, or None if it is valid. twin: the nearest valid case, None for these
    themselves. input: certificates (leaf first), a token, a document or an ID, by `reading`. key: the leaf's
    private key, to be it in a handshake. known: the document in force before this one, for `update`.
    """

    name: str
    family: Family
    reading: Reading
    input: tuple[bytes, ...] | str | bytes = field(repr=False)
    row: str | None = None
    code: str | None = None
    twin: str | None = None
    trust: str = "usual"
    key: Any = field(default=None, repr=False)
    known: bytes | None = field(default=None, repr=False)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates."""
        assert isinstance(self.input, tuple)
        return self.input

    @property
    def text(self) -> str:
        """The token or the ID."""
        assert isinstance(self.input, str)
        return self.input

    @property
    def raw(self) -> bytes:
        """The document."""
        assert isinstance(self.input, bytes)
        return self.input


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything that was generated. authority: of DOMAIN, to stand in for another's."""

    authority: FakeCa = field(repr=False)
    cases: Mapping[str, Case]
    trusts: Mapping[str, Trust]

    def of(self, *families: Family) -> list[Case]:
        """The cases of some families."""
        return [case for case in self.cases.values() if case.family in families]

    def twin(self, case: Case) -> Case:
        """The nearest valid one."""
        assert case.twin is not None, case.name
        return self.cases[case.twin]


def collect(*groups: list[Case]) -> dict[str, Case]:
    """By name; a name used twice is a mistake of ours."""
    found: dict[str, Case] = {}
    for case in (each for group in groups for each in group):
        assert case.name not in found, case.name
        found[case.name] = case
    return found
