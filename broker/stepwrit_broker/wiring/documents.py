"""The Documents port: the operator's three documents by their adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.limits import Limits
from stepwrit_broker.core.persons import Identity
from stepwrit_broker.core.registry import Registry
from stepwrit_broker.core.versions import VersionKind
from stepwrit_broker.core.workload import Proxy
from stepwrit_broker.flows.settings import Change
from stepwrit_broker.policy.files import compile_policy, read_folder
from stepwrit_broker.policy.files import load as load_policy
from stepwrit_broker.policy.opa import Opa, OpaEngine
from stepwrit_broker.ports import PolicyEngine
from stepwrit_broker.registry.difference import difference
from stepwrit_broker.registry.files import compile_registry, load_registry
from stepwrit_broker.registry.limits_file import compile_limits, load_limits


def document_text(kind: VersionKind, path: Path) -> str:
    """What the operator wrote: a file's text; a policy folder as JSON of its files by name.

    Raises Malformed, OSError, UnicodeDecodeError.
    """
    return json.dumps(read_folder(path)) if kind == "policy" else path.read_text(encoding="utf-8")


class OperatorDocuments:
    """Reads, compiles and compares. proxy: whom no registry may name. opa: who evaluates Rego. opaque: how
    the broker calls a person, needed by whoever applies a registry.
    """

    def __init__(
        self,
        *,
        proxy: Proxy | None = None,
        opa: Opa | None = None,
        opaque: Callable[[Identity], str] | None = None,
    ) -> None:
        self._proxy, self._opa, self._opaque = proxy, opa, opaque

    def read(self, kind: VersionKind, text: str, name: str) -> tuple[str, str]:
        """Canonical JSON and digest. Raises Malformed with every faulty line."""
        if kind == "registry":
            registry, compiled = load_registry(text, name=name)
            self._check(compiled)
            return registry.doc, registry.digest
        if kind == "limits":
            limits, _ = load_limits(text, name=name)
            return limits.doc, limits.digest
        policy = load_policy(_files(text))
        return policy.doc, policy.digest

    def registry(self, doc: str, number: int) -> Registry:
        """Compile."""
        compiled = compile_registry(doc, number)
        self._check(compiled)
        return compiled

    def _check(self, registry: Registry) -> None:
        """Raises Malformed when the proxy is a workload too: then a request of its own and one that it passes
        on could be taken for each other.
        """
        found = None if self._proxy is None else registry.entry_for(self._proxy.id)
        if self._proxy is not None and found is not None:
            raise Malformed(
                "invalid_request",
                f"registry: the entry {found.id} covers {self._proxy.id}, the proxy of broker.toml [proxy]: "
                "a proxy speaks for others, so it is no workload itself",
            )

    def limits(self, doc: str, number: int, by: str) -> Limits:
        """Compile."""
        return compile_limits(doc, number, by=by)

    def policy(self, doc: str, number: int) -> PolicyEngine:
        """Compile."""
        return compile_policy(doc, number, self._opa)

    async def prove(self, compiled: object) -> None:
        """Rego is compiled by OPA. Raises Malformed, Unavailable."""
        if isinstance(compiled, OpaEngine):
            await compiled.prove()

    def difference(self, kind: VersionKind, old: str | None, new: str) -> Change:
        """Lines of a registry's difference and what to mark; the other kinds only say that they changed."""
        if kind != "registry":
            return Change(lines=() if old is None else (f"{kind} replaced",))
        before = None if old is None else compile_registry(old, 0)
        after = compile_registry(new, 0)
        found = difference(before, after)
        lines = tuple(f"{each.what} {each.target} {each.detail}".rstrip() for each in found.changes)
        gone = self._requesters(after.persons.of_the_inactive())
        back = self._requesters(frozenset().union(*after.persons.links.values())) - gone
        return Change(
            lines=lines, removed=(*found.gone, *sorted(gone)), restored=(*found.back, *sorted(back))
        )

    def _requesters(self, identities: frozenset[Identity]) -> frozenset[str]:
        """The targets that stop what is done for these persons."""
        opaque = self._opaque
        return (
            frozenset() if opaque is None else frozenset(f"requester:{opaque(each)}" for each in identities)
        )


def _files(text: str) -> dict[str, str]:
    try:
        value = json.loads(text)
    except ValueError as bad:
        raise Malformed("invalid_request", "policy: expected a JSON object of file name to text") from bad
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise Malformed("invalid_request", "policy: expected a JSON object of file name to text")
    return cast("dict[str, str]", value)
