"""What `stepwrit init` and `stepwrit registry scaffold` write. Everything written here loads as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from stepwrit import digest
from stepwrit.digest import DigestError
from stepwrit_broker.cli.scaffold_fleet import with_settings
from stepwrit_broker.config import Config, parse_config
from stepwrit_broker.config_docs import toml_value
from stepwrit_broker.config_reader import Setting, settings
from stepwrit_broker.core.errors import Conflict, Malformed
from stepwrit_broker.policy.files import SUFFIXES, load, stance
from stepwrit_broker.registry.files import load_registry
from stepwrit_broker.registry.limits_file import load_limits

SCHEMAS: Final = "https://stepwrit.dev/schemas"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInfo:
    """A tool as its server lists it."""

    name: str
    input_schema: Mapping[str, object] = field(default_factory=dict)


def write_init(
    folder: Path,
    trust_domain: str,
    issuer: str,
    *,
    stance_name: str = "approval",
    engine: str = "cedar",
    wanted: Mapping[tuple[str, str], object] | None = None,
    force: bool = False,
) -> list[Path]:
    """broker.toml, registry.yaml, limits.yaml and policy/ in `folder`; the paths written. wanted: settings
    beyond the two, by section and key.

    Everything is checked before anything is written. Raises Malformed for a trust domain or issuer that does
    not fit, and Conflict(`wrong_state`) when a file is there already and `force` is not given,
    or policies for another engine are.
    """
    texts = init_files(trust_domain, issuer, stance_name, engine)
    texts["broker.toml"] = with_settings(texts["broker.toml"], wanted or {})
    _check(texts, folder)
    paths = {folder / name: text for name, text in texts.items()}
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise Conflict("wrong_state", f"{', '.join(there)}: already there; nothing was written")
    _one_language(folder / "policy", texts)
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(paths)


def _one_language(policy: Path, texts: Mapping[str, str]) -> None:
    mine = {Path(name).suffix for name in texts if name.startswith("policy/")}
    others = [
        str(path) for suffix in SUFFIXES.values() if suffix not in mine for path in policy.glob(f"*{suffix}")
    ]
    if others:
        said = f"{', '.join(sorted(others))}: for another engine; move them away first; nothing was written"
        raise Conflict("wrong_state", said)


def init_files(trust_domain: str, issuer: str, stance_name: str, engine: str = "cedar") -> dict[str, str]:
    """The texts by relative path. Raises Malformed for a stance or an engine that is not shipped."""
    if engine not in SUFFIXES:
        raise Malformed("invalid_request", f"no such engine; there are {', '.join(SUFFIXES)}")
    policies = stance(stance_name, engine)
    return {
        "broker.toml": "\n".join(_broker_toml(trust_domain, issuer)) + "\n",
        "registry.yaml": _REGISTRY.replace("TRUST_DOMAIN", trust_domain),
        "limits.yaml": _LIMITS,
        **{f"policy/{name}": text for name, text in sorted(policies.items())},
    }


def schema_digest(input_schema: Mapping[str, object]) -> str:
    """As `stepwrit.digest.schema_digest`. Raises Malformed."""
    try:
        return digest.schema_digest(input_schema)
    except DigestError as bad:
        raise Malformed("invalid_request", f"the tool's input schema has no digest: {bad}") from bad


def scaffold_registry(tools: Sequence[ToolInfo], *, server_id: str, name: str, url: str | None = None) -> str:
    """One entry for registry.yaml, every tool at high impact and without a plan, to be edited.

    Raises Malformed when the server's names or URL cannot stand in a registry. Remember `count`.
    """
    lines = [
        f"  - id: {_quoted(server_id)}",
        "    role: mcp-server",
        f"    name: {_quoted(name)}",
        *([] if url is None else [f"    url: {_quoted(url)}"]),
        "    # Lower an impact only where the worst outcome of any arguments is harmless.",
        "    # plan: the requests it may make, or `self` when it is its own resource; none: no credential.",
        "    tools:" if tools else "    tools: {}",
        *(line for tool in tools for line in _tool(tool)),
    ]
    fragment = "\n".join(lines) + "\n"
    load_registry(f"version: 1\nentries:\n{fragment}count: 1\n", name="scaffold")
    return fragment


def _tool(tool: ToolInfo) -> Iterator[str]:
    yield f"      {_quoted(tool.name)}:"
    yield "        impact: high"
    yield f"        schema: {schema_digest(tool.input_schema)}"
    yield "        plan: []"


def _quoted(text: str) -> str:
    """A JSON string is a YAML string."""
    return json.dumps(text)


def _check(texts: Mapping[str, str], folder: Path) -> None:
    parse_config(texts["broker.toml"], name="broker.toml", folder=folder, env={})
    load_registry(texts["registry.yaml"], name="registry.yaml")
    load_limits(texts["limits.yaml"], name="limits.yaml")
    policy = {
        name.removeprefix("policy/"): text for name, text in texts.items() if name.startswith("policy/")
    }
    load(policy)


def _broker_toml(trust_domain: str, issuer: str) -> Iterator[str]:
    """Every setting: the needed ones set, the others commented out with their defaults."""
    given = {"trust_domain": trust_domain, "issuer": issuer}
    yield f"#:schema {SCHEMAS}/broker.schema.json"
    yield "# Settings of the broker. What is commented out shows its default."
    for each in settings(Config):
        if each.means is not None:
            yield from _setting(each, given.get(each.name))
    for each in settings(Config):
        if is_dataclass(each.kind):
            yield from ("", f"[{each.name}]")
            yield from _settings_of(each.kind)
        elif get_origin(each.kind) is tuple:
            yield from ("", f"# [[{each.name}]]")
            yield from _settings_of(get_args(each.kind)[0])


def _settings_of(kind: Any) -> Iterator[str]:
    for each in settings(kind):
        yield from _setting(each, None)


def _setting(each: Setting, given: str | None) -> Iterator[str]:
    assert each.means is not None  # noqa: S101  callers ask for single settings only
    unit = f" ({each.means.unit})" if each.means.unit else ""
    yield f"# {each.means.text}{unit}"
    if given is not None:
        yield f"{each.name} = {_quoted(given)}"
    else:
        shown = _quoted(each.means.example or "https://idp.example")
        yield f"# {each.name} = " + (shown if each.is_needed else toml_value(each.default))


_REGISTRY: Final = f"""\
# yaml-language-server: $schema={SCHEMAS}/registry.schema.json
# Who is what, who may start what, who redeems. One SPIFFE ID has one role; an ID that ends in /* covers
# every ID below it. A file with a mistake changes nothing: the broker names every line and keeps the old one.
version: 1
tenant: default

# Who may sign for others: policies name them (@approvers). Mails that something waits go to `email`.
# persons:
#   - name: bob
#     email: bob@corp.example
#     identities: [{{issuer: https://idp.example, subject: 00u1bob}}]

entries:
  - id: spiffe://TRUST_DOMAIN/stepwrit/broker
    role: broker
    name: stepwrit

  # A server of tools. `stepwrit registry scaffold` writes such an entry from a running server.
  # - id: spiffe://TRUST_DOMAIN/ns/pay/sa/ledger-mcp
  #   role: mcp-server
  #   name: ledger
  #   url: https://ledger.example/mcp
  #   tools:
  #     transfer:
  #       impact: high                # low | medium | high
  #       facts: {{amount: /amount}}    # what policy may read of the arguments
  #       plan:                       # the requests it may make; anything else is a step of its own
  #         - {{at: https://bank.example, request: "POST /v1/transfers", times: 1}}
  #       returns: trusted            # you vouch for the content of its results; without it: untrusted
  #     whoami: {{impact: low, plan: self}}    # the tool is its own resource
  #   may_start: {{tools: [client/sampling], impact: low}}  # it may ask its client's model; a form is free

  # What is opened: the one workload that redeems for an audience.
  # - {{id: spiffe://TRUST_DOMAIN/bank, role: resource, name: bank, audience: https://bank.example}}

  # What hosts the model. Only ID tokens made for these clients start an intent here.
  # - id: spiffe://TRUST_DOMAIN/agent/chat
  #   role: agent
  #   name: chat
  #   clients: [{{issuer: https://idp.example, client_id: chat-app}}]
  #   max_auth_age: 1h
  #   may_start: {{tools: ["ledger/*"], impact: high}}

  # A scheduler or a source of events. The owner answers for it.
  # - id: spiffe://TRUST_DOMAIN/cron
  #   role: trigger
  #   name: nightly
  #   owner: ops@prod.example
  #   needs_cause: true               # its events come from steps, and name them
  #   may_start: {{tools: [ledger/whoami], impact: low}}

  # A gateway that asks for advice about the tools behind it (AuthZEN), and does nothing else.
  # - {{id: spiffe://TRUST_DOMAIN/gateway/edge, role: gateway, name: edge, may_ask: [ledger/*]}}

  # Who may use the admin face with an X.509-SVID.
  # - {{id: spiffe://TRUST_DOMAIN/operator/alice, role: operator, name: alice}}

# What servers and triggers may start after what, with which facts, how often. The stance `workflow` lets them
# start nothing else.
# workflows:
#   - name: invoice
#     steps:
#       - {{name: transfer, by: chat, tool: ledger/transfer, times: 10}}
#       - {{name: ask, by: ledger, tool: client/elicitation, under: transfer}}

# The number of entries, always the last line: a file that was cut off cannot pass.
count: 1
"""

_LIMITS: Final = f"""\
# yaml-language-server: $schema={SCHEMAS}/limits.schema.json
# Bounds on issuance, to be widened with `stepwrit limits set` as real use shows. One counter is kept for each
# combination of `per`; `match` narrows a limit to what has these values.
version: 1
rates:
  - {{name: intents-per-workload, on: intents, per: [workload], rate: 60/min, burst: 20}}
  - {{name: intents-human, on: intents, per: [requester], match: {{origin: human}}, rate: 10/min, burst: 5}}
  - {{name: events-per-cause, on: intents, per: [workload, cause], rate: 30/min, burst: 10}}
  - {{name: steps-per-workload, on: steps, per: [workload, origin], rate: 600/min, burst: 100}}
  - {{name: steps-by-servers, on: steps, per: [workload], match: {{origin: server}}, rate: 60/min, burst: 20}}
  - {{name: credentials-per-workload, on: credentials, per: [workload, origin], rate: 600/min, burst: 100}}
  - {{name: credentials-per-tenant, on: credentials, per: [tenant], rate: 3000/min, burst: 500}}
  - {{name: questions-per-workload, on: questions, per: [workload], rate: 600/min, burst: 100}}
concurrency:
  - {{name: outstanding-per-workload, per: [workload], max: 100}}
# Counts of one transaction.
transaction: {{steps: 200, depth: 8, fan_out: 50, server_steps: 20}}
# How long things live. Caps: step_token 5m, accepted and credential 15m, waiting and intent 24h.
life: {{step_token: 60s, accepted: 15m, waiting: 15m, credential: 60s, intent: 1h}}
# The number of rates, always the last line: a file that was cut off cannot pass.
count: 8
"""
