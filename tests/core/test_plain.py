"""What a person is shown of texts from strangers."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwrit_broker.core.plain import LONGEST, plain

texts = st.text(st.characters(), max_size=60)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "transfer 500 to acc-20391",
        "Müller & Söhne, Zürich",
        "Привет, мир",
        "東京都",
        "שלום",
        "שלום, עולם",
        "हिन्दी में, कों",
        "tiếng Việt",
        "Łódź, Straße, İstanbul",
        "naïve café",
        "နို့",
        "ที่นี่",
    ],
)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert plain(text) == unicodedata.normalize("NFC", text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay\u202eko.elgoog", "pay⟨U+202E⟩ko.elgoog"),
        ("a\u2066b\u2069", "a⟨U+2066⟩b⟨U+2069⟩"),
        ("zero\u200bwidth", "zero⟨U+200B⟩width"),
        ("line\nbreak\r\x1b[31mred", "line⟨U+000A⟩break⟨U+000D⟩⟨U+001B⟩[31mred"),
        ("no\u00a0break", "no⟨U+00A0⟩break"),
        ("\ufeffbom", "⟨U+FEFF⟩bom"),
        ("１００", "⟨U+FF11⟩⟨U+FF10⟩⟨U+FF10⟩"),
        ("ﬁle", "⟨U+FB01⟩le"),
        ("p\u0430ypal", "p\u0430ypal⟨letters: cyrillic, latin⟩"),
        ("\u0441\u043e\u0441\u043e", "\u0441\u043e\u0441\u043e⟨letters: cyrillic⟩"),
        ("ρ\u0430y", "ρ\u0430y⟨letters: cyrillic, greek, latin⟩"),
        ("x\u0301\u0302\u0303\u0304", "x\u0301\u0302⟨U+0303⟩⟨U+0304⟩"),
        ("cafe\u0301", "cafe⟨U+0301⟩"),
        ("q\u0307\u0323", "q⟨U+0307⟩⟨U+0323⟩"),
        ("\u1100\u1161", "\u1100⟨U+1161⟩"),
        ("⟨U+202E⟩", "⟨U+27E8⟩U+202E⟨U+27E9⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("a\u0e47\u0e47\u0e47\u0e47\u0e47", "a\u0e47\u0e47\u0e47\u0e47⟨U+0E47⟩"),
        ("5\u20dd", "5⟨U+20DD⟩"),
        # invisible, though Unicode calls them letters, marks or symbols
        ("bo\ufe0fb", "bo⟨U+FE0F⟩b"),
        ("bo\U000e0101b", "bo⟨U+E0101⟩b"),
        ("a\u034fb", "a⟨U+034F⟩b"),
        ("a\u115fb", "a⟨U+115F⟩b"),
        ("a\u2800b", "a⟨U+2800⟩b"),
        ("a\u17b4b", "a⟨U+17B4⟩b"),
        ("\ufffc", "⟨U+FFFC⟩"),
        # letters that are drawn like others, and are Latin by name
        ("\u0261oogle", "\u0261oogle⟨letters: latin, rare latin⟩"),
        ("\u1d04\u1d0f\u1d04\u1d0f", "\u1d04\u1d0f\u1d04\u1d0f⟨letters: rare latin⟩"),
        # digits that are drawn like others: this one is a four, and `int` reads it as one
        ("\u09ea0", "\u09ea0⟨digits: bengali⟩"),
        # signs that are drawn like those of ASCII, like our marks, and like our quotation marks
        ("evil.example\u2044bank", "evil.example⟨U+2044⟩bank"),
        ("a\u2236b", "a⟨U+2236⟩b"),
        ("\u22125", "⟨U+2212⟩5"),
        ("\u3008U+202E\u3009", "⟨U+3008⟩U+202E⟨U+3009⟩"),
        ("\u301d", "⟨U+301D⟩"),
        # a stroke that is laid over what is no letter
        ("5\u03360", "5⟨U+0336⟩0"),
        ("\u0301a", "⟨U+0301⟩a"),
        # blanks that a page draws as one, or as the end of its line
        ("to  bob", "to⟨2 spaces⟩bob"),
        ("bob" + " " * 300 + "and eve", "bob⟨300 spaces⟩and eve"),
        # what is read from the right, between what is read from the left: each word stands where it is
        ("\u05d0\u05d1 100 \u05d2", "\u05d0\u05d1⟨right to left⟩ 100 \u05d2⟨right to left⟩"),
        ("\u05d05", "⟨U+05D0⟩5"),
        ("5\u061f", "5⟨U+061F⟩"),
    ],
)
def test_what_deceives_the_eye_is_marked(text: str, shown: str) -> None:
    assert plain(text) == shown


# UAX 44, Default_Ignorable_Code_Point, of the letters, marks and symbols; and blanks that are none
UNSEEN = (
    *"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u3164\ufe00\ufe0f\uffa0\U000e0100\U000e01ef",
    *"\u2800\ufffc\U00016fe4\U0001d159",
)


@pytest.mark.parametrize("char", UNSEEN)
def test_a_character_that_draws_nothing_is_named(char: str) -> None:
    assert plain("acc-1") == "acc-1"
    assert plain(f"acc{char}-1") == f"acc⟨U+{ord(char):04X}⟩-1"


@given(texts)
def test_nothing_hidden_is_left(text: str) -> None:
    kinds = {unicodedata.category(char) for char in plain(text)}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(texts, texts)
def test_two_texts_never_look_the_same(one: str, other: str) -> None:
    alike = unicodedata.normalize("NFC", plain(one)) == unicodedata.normalize("NFC", plain(other))
    assert alike == (one == other)


@given(st.text(st.characters(), min_size=LONGEST + 1, max_size=LONGEST + 40), st.integers(210, 330))
def test_a_long_text_is_cut_and_told_with_its_digest(text: str, at: int) -> None:
    shown = plain(text)
    assert f"{len(text) - 260} characters left out, SHA-256 of the whole" in shown
    other = text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
    assert plain(other) != shown


def test_a_text_at_the_bound_is_whole() -> None:
    assert plain("a" * LONGEST) == "a" * LONGEST
    assert len(plain("a" * (LONGEST + 1))) < LONGEST
