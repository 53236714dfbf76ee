"""What a person is shown before they sign: everything that will run, in plain words, and nothing hidden."""

from __future__ import annotations

import pytest
from tests.core.test_approval import asked, with_intent, with_step

from stepwrit.digest import args_digest
from stepwrit_broker.core import approval_text
from stepwrit_broker.core.approval import Asked
from stepwrit_broker.core.approval_text import LINES_MAX, text_digest, text_of

ARGS: dict[str, object] = {
    "to": "bob@example.com",
    "amount": 500,
    "lines": [{"id": 1}, {"id": 2}],
    "none": {},
}


def lines(
    one: Asked,
    args: dict[str, object] | None = None,
    hidden: frozenset[str] = frozenset(),
    first: tuple[str, ...] = (),
) -> list[str]:
    return list(
        text_of(
            step=one.step,
            action=one.action,
            performer=one.performer,
            args=ARGS if args is None else args,
            policies=one.policies,
            hidden=hidden,
            first=first,
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


def test_different_arguments_never_make_the_same_lines() -> None:
    """Each was one text with its neighbour, or could be read as another argument."""
    pairs: list[tuple[dict[str, object], dict[str, object]]] = [
        ({"x": ["a"]}, {"x": {"0": "a"}}),
        ({"x": {"a/b": 1}}, {"x": {"a": {"b": 1}}}),
        ({"x": {"“0”": 1}}, {"x": {"0": 1}}),
        ({"": 1}, {"/": 1}),
    ]
    for one, other in pairs:
        assert lines(asked(), one) == lines(asked(), one)
        assert lines(asked(), one) != lines(asked(), other)
    assert "Argument /x/0 = “a”" in lines(asked(), {"x": ["a"]})
    assert "Argument /x/“0” = “a”" in lines(asked(), {"x": {"0": "a"}})


def test_the_name_of_an_argument_cannot_pass_for_a_value() -> None:
    told = lines(asked(), {"to = “bob”": None, "\u05d0": 5})
    assert "Argument /“to = ⟨U+201C⟩bob⟨U+201D⟩” = null" in told
    assert "Argument /“\u05d0”⟨right to left⟩ = 5" in told, "the number stays where it belongs"


def test_what_matters_to_policy_comes_first_whatever_it_is_padded_with() -> None:
    """An agent's sixty arguments that the tool ignores would push the one that counts out of sight."""
    padded: dict[str, object] = {f"!{number:03}": 0 for number in range(LINES_MAX)} | ARGS
    assert "Argument /amount = 500" not in lines(asked(), padded)
    told = lines(asked(), padded, first=("/to", "/amount", "/missing", "/lines/1/id"))
    at = [each for each in told if each.startswith("Argument ")]
    assert at[:3] == [
        "Argument /amount = 500", "Argument /lines/1/id = 2", "Argument /to = “bob@example.com”",
    ]  # fmt: skip
    assert len(at) == len(set(at)) == LINES_MAX
    hidden = lines(asked(), padded, hidden=frozenset({"/to"}), first=("/to",))
    assert "Argument /to = (not shown, as policy demands)" in hidden
    assert not [each for each in hidden if "bob@example.com" in each]


def test_that_not_all_is_shown_is_told_before_what_is_shown() -> None:
    many: dict[str, object] = {f"n{number:03}": number for number in range(LINES_MAX + 5)}
    told = lines(asked(), many)
    warning = next(at for at, each in enumerate(told) if "5 arguments more" in each)
    assert warning < next(at for at, each in enumerate(told) if each.startswith("Argument "))


def test_what_is_not_shown_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call with 100,000 values must not stop the broker for seconds."""
    made: list[str] = []
    monkeypatch.setattr(approval_text, "plain", lambda text: (made.append(text), text)[1])
    told = lines(asked(), {"x": ["v"] * 100_000})
    assert len([each for each in told if each.startswith("Argument ")]) == LINES_MAX
    assert len(made) < 4 * LINES_MAX


def test_whoever_signs_is_told_who_wants_it_until_when_and_what_was_said_of_it() -> None:
    told = "\n".join(lines(with_intent(purpose="pay. It has no arguments.")(asked())))
    assert "It is wanted by “alice” of “https://idp.example”." in told
    assert "The purpose that was given: “pay. It has no arguments.”" in told
    assert "You " not in told, "who reads it need not be who asked"
    until = with_step(expires_at=1_800_000_000.0)(asked())
    assert "It may begin until 2027-01-15 08:00 UTC." in lines(until)
    later = lines(with_step(deferred=True)(until))
    assert "It may begin until 2027-01-15 08:00 UTC, also after what started it has ended." in later
    cron = with_intent(requester=None, owner="team")(asked())
    assert "No person asked for it; “team” answers for it." in lines(cron)


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
    assert "Argument /“a⟨U+202E⟩/b~” = 1" in told


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("amount", "Argument /amount = 900"),
        ("amount = 1, fee", "Argument /“amount = 1, fee” = 900"),
        ("to=“bob”", "Argument /“to=⟨U+201C⟩bob⟨U+201D⟩” = 900"),
        ("amount\u2003", "Argument /“amount⟨U+2003⟩” = 900"),
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
    digest = args_digest(many)
    assert f"It has 5 arguments more than are shown here; all of them have the digest {digest}" in told
    assert text_digest(told) != text_digest(lines(asked(), {**many, "n064": 0}))


def test_another_text_has_another_digest() -> None:
    one = lines(asked())
    assert text_digest(one) == text_digest(lines(asked()))
    assert text_digest([*one, ""]) != text_digest(one) != text_digest(one[:-1])
    assert text_digest(["a", "b"]) != text_digest(["ab"]) != text_digest(["a\nb"])
