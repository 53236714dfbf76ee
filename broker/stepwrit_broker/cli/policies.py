"""`stepwrit policy check|test|diff|replay|shadow|impact`: what a policy would say before it is in force.

Folders need no broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwrit_broker.cli.failures import REFUSED
from stepwrit_broker.cli.locate import At, Json
from stepwrit_broker.cli.output import NO, YES, examples, print_json, print_table, say
from stepwrit_broker.cli.policy_replay import run_replay
from stepwrit_broker.cli.policy_shadow import add_shadow
from stepwrit_broker.cli.policy_texts import OpaUrl, Policy, folder_policy, policy_of
from stepwrit_broker.core.answer import Answer
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.core.terms import together
from stepwrit_broker.rehearsal.ask import Outcome
from stepwrit_broker.rehearsal.statements import Difference, differences, parts
from stepwrit_broker.rehearsal.suite import Case, read_suites

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The policy folder.")
]
Suites = Annotated[
    list[Path],
    typer.Argument(metavar="SCENARIOS...", exists=True, help="Scenario files; of a folder, all its *.yaml."),
]
ScenarioOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--scenarios",
        metavar="PATH",
        exists=True,
        help="Scenarios to ask both; a file or a folder. Repeatable.",
    ),
]
ExitCode = Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when anything differs.")]
_PLACES = "A folder, an exported file, a version number, or in-force."


def check(folder: Folder, opa: OpaUrl = None, as_json: Json = False) -> None:
    """Validate a policy folder, offline: syntax, schema, ids, facts.

    Exit code 1 names every problem as file:line. Nothing is asked and nothing changes.
    """
    try:
        policy = folder_policy(folder)
        policy.answers((), opa)
    except Malformed as bad:
        if not as_json:
            raise
        print_json(
            {"ok": False, "problems": [line for line in bad.reason.splitlines() if not line.endswith(":")]}
        )
        raise typer.Exit(REFUSED) from None
    found = parts(policy.doc)
    if as_json:
        print_json(
            {"ok": True, "problems": [], "statements": {name: part.where for name, part in found.items()}}
        )
        return
    statements = sum(1 for each in found if " " not in each)
    files = sum(1 for each in found if each.startswith("file "))
    say(f"{YES} {folder} loads: {_counted(files, 'file') if files else _counted(statements, 'statement')}")


def run_scenarios(folder: Folder, scenarios: Suites, opa: OpaUrl = None, as_json: Json = False) -> None:
    """Ask a policy folder every scenario, offline, and compare.

    Exit code 1 when one answer is not what its scenario expects: what was expected, what came, and which
    policies decided.
    """
    cases = read_suites(scenarios)
    outcomes = folder_policy(folder).answers(cases, opa)
    failed = [each for each in outcomes if not each.is_as_expected]
    if as_json:
        print_json({"ok": not failed, "cases": [_outcome_json(each) for each in outcomes]})
    else:
        _tell(outcomes, failed)
    if failed:
        raise typer.Exit(REFUSED)


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_PLACES)],
    new: Annotated[str, typer.Argument(metavar="NEW", help=_PLACES)],
    scenarios: ScenarioOption = None,
    exit_code: ExitCode = False,
    opa: OpaUrl = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Say what changes between two policies: statements, and with --scenarios the answers.

    Statements are compared by @id and meaning: comments, spaces and order do not count.
    """
    one, two = policy_of(old, at), policy_of(new, at)
    found = differences(one.doc, two.doc)
    changed = _changed(one, two, read_suites(scenarios or []), opa)
    if as_json:
        print_json(_diff_json(one, two, found, changed, asked=scenarios is not None))
    else:
        _tell_diff(one, two, found, changed, asked=scenarios is not None)
    if exit_code and (found or changed):
        raise typer.Exit(REFUSED)


Changed = tuple[Case, Answer, Answer]


def _changed(one: Policy, two: Policy, cases: Sequence[Case], opa: str | None) -> list[Changed]:
    pairs = zip(one.answers(cases, opa), two.answers(cases, opa), strict=True) if cases else ()
    return [(was.case, was.came, now.came) for was, now in pairs if _weighed(was.came) != _weighed(now.came)]


def _weighed(answer: Answer) -> tuple[object, ...]:
    return answer.verdict, answer.obligations, answer.terms


def _tell(outcomes: Sequence[Outcome], failed: Sequence[Outcome]) -> None:
    rows = [
        (
            YES if each.is_as_expected else NO,
            each.case.name,
            each.case.question.asking,
            each.case.expected.verdict,
            each.came.verdict,
            _policies(each.came),
        )
        for each in outcomes
    ]
    print_table(("", "scenario", "asked", "expected", "came", "decided by"), rows, empty="no scenario")
    for each in failed:
        say(f"\n{NO} {each.case.place}: {each.case.name} [{each.case.question.asking}]", style="red")
        for line in (*each.differences, f"decided by {_policies(each.came)}", *_why(each.came)):
            say(f"    {line}")
    say(f"\n{len(outcomes) - len(failed)} of {_counted(len(outcomes), 'case')} as expected")


def _policies(answer: Answer) -> str:
    return ", ".join(answer.policies) or "no policy"


def _why(answer: Answer) -> list[str]:
    said = answer.reason or answer.setting
    return [*([f"says: {said}"] if said else []), *(f"waits for {each}" for each in answer.terms)]


def _tell_diff(
    one: Policy, two: Policy, found: Sequence[Difference], changed: Sequence[Changed], *, asked: bool
) -> None:
    rows = [(each.how, each.name, each.was_at or None, each.now_at or None) for each in found]
    say(f"old: {one.label}\nnew: {two.label}\n", style="dim")
    print_table(("", "statement", "old", "new"), rows, empty="the same statements")
    for each in found:
        say(f"\n{each.how} {each.name}", style="bold")
        _lines("-", each.was)
        _lines("+", each.now)
    if asked:
        say("")
        rows_ = [
            (
                case.name,
                case.question.asking,
                f"{was.verdict} ({_policies(was)})",
                f"{now.verdict} ({_policies(now)})",
            )
            for case, was, now in changed
        ]
        print_table(("scenario", "asked", "old", "new"), rows_, empty="no scenario is answered otherwise")


def _lines(sign: str, text: str) -> None:
    for line in text.strip().splitlines():
        say(f"{sign} {line}", style="red" if sign == "-" else "green")


def _outcome_json(each: Outcome) -> dict[str, Any]:
    wanted = each.case.expected
    return {
        "name": each.case.name,
        "place": each.case.place,
        "asking": each.case.question.asking,
        "ok": each.is_as_expected,
        "expected": {
            "verdict": wanted.verdict,
            "policies": None if wanted.policies is None else sorted(wanted.policies),
            "reason": wanted.reason,
            "setting": wanted.setting,
            "terms": None if wanted.terms is None else [each.as_json for each in together(wanted.terms)],
            "obligations": None if wanted.obligations is None else dict(sorted(wanted.obligations)),
        },
        "came": _answer_json(each.came),
        "differences": list(each.differences),
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "verdict": answer.verdict,
        "policies": list(answer.policies),
        "reason": answer.reason,
        "setting": answer.setting,
        "terms": [each.as_json for each in answer.terms],
        "obligations": dict(answer.obligations),
    }


def _diff_json(
    one: Policy, two: Policy, found: Sequence[Difference], changed: Sequence[Changed], *, asked: bool
) -> dict[str, Any]:
    return {
        "old": one.label,
        "new": two.label,
        "statements": [
            {
                "name": each.name,
                "how": each.how,
                "old": each.was or None,
                "new": each.now or None,
            }
            for each in found
        ],
        "scenarios": [
            {
                "name": case.name,
                "asking": case.question.asking,
                "place": case.place,
                "old": _answer_json(was),
                "new": _answer_json(now),
            }
            for case, was, now in changed
        ]
        if asked
        else None,
    }


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def add_rehearsal(app: typer.Typer) -> None:
    """Put the commands into the `policy` group."""
    codes = "[bold]Exit codes[/bold]  0 good · 1 {one} · 2 wrong usage · 3 no broker there\n\n"
    app.command("check", epilog=codes.format(one="a problem") + examples("stepwrit policy check policy/"))(
        check
    )
    app.command(
        "test",
        epilog=codes.format(one="an answer differs, or a file has a problem")
        + examples("stepwrit policy test policy/ scenarios/"),
    )(run_scenarios)
    app.command(
        "diff",
        epilog=codes.format(one="a policy does not load; with --exit-code, a difference")
        + examples(
            "stepwrit policy diff in-force policy/ --scenarios scenarios/", "stepwrit policy diff 7 policy/"
        ),
    )(diff)
    add_shadow(app)
    app.command(
        "replay",
        epilog=codes.format(one="the policy does not load; with --exit-code, a change")
        + examples(
            "stepwrit policy replay --candidate policy/ --since 7d",
            "stepwrit policy replay --candidate policy/ --db /var/lib/stepwrit/stepwrit.db --json",
        ),
    )(run_replay)
