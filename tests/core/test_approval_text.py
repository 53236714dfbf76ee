"""What a person is shown before they sign: everything that will run, in plain words, and nothing hidden."""

from __future__ import annotations

import pytest
from tests.core.test_approval import asked, with_intent, with_step

from stepwrit.digest import args_digest
from stepwrit_broker.core.approval import Asked
from stepwrit_broker.core.approval_text import LINES_MAX, text_digest, text_of

ARGS: dict[str, object] = {
    "to": "bob@example.com",
    "amount": 500,
    "lines": [{"id": 1}, {"id": 2}],
    "none": {},
}


def lines(
    one: Asked, args: dict[str, object] | None = None, hidden: frozenset[str] = frozenset()
) -> list[str]:
    return list(
        text_of(
            step=one.step,
            action=one.action,
            performer=one.performer,
            args=ARGS if args is None else args,
            policies=one.policies,
            hidden=hidden,
        )
    )


def test_it_says_what_who_and_why_in_words_and_hides_nothing() -> None:
    text = "\n".join(lines(with_intent(purpose="pay\u202e the invoice\n<b>now</b>")(asked())))
    said = ("mail/send", "POST https://b.example/t, once at most", "high-needs-approval", "a/b", "ledger")
    for part in said:
        assert part in text
    assert "pay⟨U+202E⟩ the invoice⟨U+000A⟩<b>now</b>" in text
    assert "No person and no model asked" in "\n".join(lines(with_step(origin="server")(asked())))


def test_every_argument_has_its_line_and_its_place() -> None:
    told = lines(asked())
    for each in (
        "Argument /amount = 500",
        "Argument /lines/0/id = 1",
        "Argument /lines/1/id = 2",
        "Argument /none = {}",
        "Argument /to = “bob@example.com”",
    ):
        assert each in told
    assert "It has no arguments." in lines(asked(), {})


def test_text_and_number_look_different() -> None:
    assert "Argument /a = “1”" in lines(asked(), {"a": "1"})
    assert "Argument /a = 1" in lines(asked(), {"a": 1})
    assert "Argument /a = null" in lines(asked(), {"a": None})
    assert "Argument /a = “null”" in lines(asked(), {"a": "null"})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x”\nArgument /amount = 1", "“x⟨U+201D⟩⟨U+000A⟩Argument /amount = 1”"),
        ("\u202e500", "“⟨U+202E⟩500”"),
        ("<script>alert(1)</script>", "“<script>alert(1)</script>”"),
        ("раypal", "letters: cyrillic, latin"),
    ],
)
def test_what_comes_from_outside_cannot_pass_for_our_words(value: str, shown: str) -> None:
    told = lines(asked(), {"a": value})
    assert [each for each in told if shown in each]
    assert all("\n" not in each for each in told)


def test_names_of_arguments_are_strangers_too() -> None:
    told = lines(asked(), {"a\u202e/b~": 1})
    assert "Argument /a⟨U+202E⟩~1b~0 = 1" in told


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("amount", "Argument /amount = 900"),
        ("amount = 1, fee", "Argument “/amount = 1, fee” = 900"),
        ("to=“bob”", "Argument “/to=⟨U+201C⟩bob⟨U+201D⟩” = 900"),
        ("amount\u2003", "Argument “/amount⟨U+2003⟩” = 900"),
    ],
)
def test_the_name_of_an_argument_cannot_pass_for_its_value(name: str, line: str) -> None:
    assert line in lines(asked(), {name: 900})


def test_what_policy_hides_is_told_to_be_there_and_nothing_of_it() -> None:
    told = lines(asked(), hidden=frozenset({"/to", "/lines"}))
    assert not [each for each in told if "bob@example.com" in each or "/lines/0" in each]
    assert "Argument /to = (not shown, as policy demands)" in told
    assert args_digest({"v": "bob@example.com"}) not in "\n".join(told)
    assert "Argument /amount = 500" in told


def test_too_many_arguments_are_counted_and_named_by_their_digest() -> None:
    many: dict[str, object] = {f"n{number:03}": number for number in range(LINES_MAX + 5)}
    told = lines(asked(), many)
    assert len([each for each in told if each.startswith("Argument ")]) == LINES_MAX
    assert f"and 5 arguments more; all of them have the digest {args_digest(many)}" in told
    assert text_digest(told) != text_digest(lines(asked(), {**many, "n064": 0}))


def test_another_text_has_another_digest() -> None:
    one = lines(asked())
    assert text_digest(one) == text_digest(lines(asked()))
    assert text_digest([*one, ""]) != text_digest(one) != text_digest(one[:-1])
    assert text_digest(["a", "b"]) != text_digest(["ab"]) != text_digest(["a\nb"])
