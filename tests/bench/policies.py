"""A policy of many statements, the same in Cedar and in Rego: the stance `approval` and an operator's own.

Of eight statements of the operator's six are about one tool, one is about one workload, one about everything;
of the last, every second begins with a comparison that tells at once whether it applies. `everywhere`: all
are about everything, and none begins so: the worst that can be written.
"""

from __future__ import annotations

from stepwrit_broker.policy.files import EngineName, stance

ASKED = "ledger/transfer"
FACTS = '{"amount": "Long"}'
STANCE = 10  # statements of the stance
_SEVEN = ("tool", "tool", "tool", "workload", "tool", "tool", "tool")
_KINDS = (*_SEVEN, "everything", *_SEVEN, "guarded")
_CEDAR = {
    "tool": """
@id("r{n}") @reason("no")
forbid (principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"],
        resource == Stepwrit::Tool::"{tool}")
unless {{ context.facts has amount && context.facts.amount <= {most} }};
""",
    "workload": """
@id("r{n}") @reason("no")
forbid (principal == Stepwrit::Workload::"spiffe://prod.example/w{n}",
        action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"], resource)
when {{ context.action.impact == "medium" }};
""",
    "everything": """
@id("r{n}") @reason("no")
forbid (principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"], resource)
when {{ context.depth > {depth} && context.origin == "server" }};
""",
    "guarded": """
@id("r{n}") @reason("no")
forbid (principal, action in [Stepwrit::Action::"open_step", Stepwrit::Action::"issue_credential"], resource)
when {{ context.origin == "server" && context.depth > {depth} }};
""",
}
_REGO = {
    "tool": """
forbid contains {{"id": "r{n}", "reason": "no"}} if {{
	acts
	input.resource == "{tool}"
	not small{n}
}}
small{n} if input.facts.amount <= {most}
""",
    "workload": """
forbid contains {{"id": "r{n}", "reason": "no"}} if {{
	acts
	input.principal == "spiffe://prod.example/w{n}"
	input.action.impact == "medium"
}}
""",
    "everything": """
forbid contains {{"id": "r{n}", "reason": "no"}} if {{
	acts
	input.origin == "server"
	input.depth > {depth}
}}
""",
}


_REGO["guarded"] = _REGO["everything"]


def policy(engine: EngineName, statements: int, *, everywhere: bool = False) -> dict[str, str]:
    """The files of a policy of so many statements, STANCE at least. The first is about the tool ASKED."""
    said = _CEDAR if engine == "cedar" else _REGO
    texts = [
        said[_kind(number, everywhere=everywhere)].format(
            n=number,
            tool=ASKED if number == 0 else f"server{number % 40}/tool{number}",
            most=10**9 + number,
            depth=100 + number,
        )
        for number in range(statements - STANCE)
    ]
    head, suffix = ("", "cedar") if engine == "cedar" else ("package stepwrit\n\nimport rego.v1\n", "rego")
    return {**stance("approval", engine), f"90-own.{suffix}": head + "".join(texts), "facts.json": FACTS}


def _kind(number: int, *, everywhere: bool) -> str:
    """The first reads a fact of each call, so that no verdict is the one before."""
    return "everything" if everywhere and number else _KINDS[number % len(_KINDS)]
