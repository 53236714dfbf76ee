"""The files that the how-tos on other trust domains and on signals show are files that load."""

from __future__ import annotations

import re
from pathlib import Path

from stepwrit_broker.config import parse_config
from stepwrit_broker.registry.files import load_registry

DOCS = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_both_registries_of_a_chain_across_trust_domains_load() -> None:
    home, away = blocks("across-trust-domains.md", "yaml")
    for text, entries, peer in (
        (home, 2, "https://broker.away.example"),
        (away, 2, "https://broker.home.example"),
    ):
        registry = load_registry(f"version: 1\n{text}count: {entries}\n", name="r")[1]
        assert registry.peer(peer) is not None
    here = load_registry(f"version: 1\n{home}count: 2\n", name="r")[1]
    assert here.server("https://vault.away.example/mcp").issuer == "https://broker.away.example"  # type: ignore[union-attr]


def test_the_settings_for_signals_load() -> None:
    (text,) = blocks("signals.md", "toml")
    head = 'trust_domain = "prod.example"\nissuer = "https://broker.example:8444"\n'
    made = parse_config(head + text, name="broker.toml", folder=Path("/"), env={})
    (source,) = made.signals
    assert (source.issuer, source.audience) == ("https://idp.example", made.issuer)
    assert source.authorization_file == Path("/etc/stepwrit/signals-idp")
