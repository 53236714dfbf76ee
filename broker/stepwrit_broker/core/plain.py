"""Text from strangers, made safe to look at: what a person reads is what is there, and nothing else. Pure.

Nothing that is invisible, that turns the direction of reading, that stands for another character, or that
mixes alphabets within a word reaches the eye unmarked. Marks stand between ⟨ and ⟩, which are themselves
marked where they come from outside, so two different texts never look the same.

Sources: UTS 39 (confusables, mixed scripts), UAX 9 (bidirectional controls), UAX 44
(Default_Ignorable_Code_Point).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final

LONGEST: Final = 400
_HEAD, _TAIL = 200, 60
_OPEN, _CLOSE = "⟨", "⟩"
_MARKS_MAX: Final = 2  # combining marks on one letter
_STACK_MAX: Final = 4  # marks of any kind on one letter: scripts that write vowels above it need three
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Me"})
# drawn as nothing, though they count as letters, marks or symbols: variation selectors, fillers, blanks
_BLANK: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0xFFFC, 0x16FE4, 0x1D159),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0000, 0xE1000),
        ),
    )
)
_WORD: Final = re.compile(r"\w+")
# the alphabets whose letters pass for Latin ones, and Latin itself; others cannot be taken for each other
_ALPHABETS: Final = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})


def plain(text: str, longest: int = LONGEST) -> str:
    """The text with everything doubtful marked. longest: characters; more is cut in the middle and told.

    A cut text ends with the SHA-256 of the whole (hex, first 16), so that what is signed can be compared.
    """
    if len(text) <= longest:
        return _marked(text)
    left_out = len(text) - _HEAD - _TAIL
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    told = f"{_OPEN}{left_out} characters left out, SHA-256 of the whole {digest}{_CLOSE}"
    return f"{_marked(text[:_HEAD])} {told} {_marked(text[-_TAIL:])}"


def _marked(text: str) -> str:
    shown = _characters(text)
    ends = {word.end(): _alphabets(word[0]) for word in _WORD.finditer(text)}
    return "".join(f"{char}{ends.get(at, '')}" for at, char in enumerate(shown, 1))


def _characters(text: str) -> list[str]:
    """Each character, or its name in place of it. What a normal form would join or reorder is named too."""
    normal = unicodedata.is_normalized("NFC", text)
    out: list[str] = []
    marks, stack, before = 0, 0, ""
    for char in text:
        joins = unicodedata.combining(char) != 0
        marks = marks + 1 if joins else 0
        stack = stack + 1 if joins or unicodedata.category(char) == "Mn" else 0
        strays = not normal and (joins or not unicodedata.is_normalized("NFC", before + char))
        piled = marks > _MARKS_MAX or stack > _STACK_MAX
        out.append(_named(char) if strays or piled or _is_doubtful(char) else char)
        before = char
    return out


def _is_doubtful(char: str) -> bool:
    if " " <= char <= "~":
        return False
    kind = unicodedata.category(char)
    stands_for_another = unicodedata.normalize("NFKC", char) != char
    return kind in _HIDDEN or kind == "Zs" or char in _BLANK or char in (_OPEN, _CLOSE) or stands_for_another


def _named(char: str) -> str:
    return f"{_OPEN}U+{ord(char):04X}{_CLOSE}"


def _alphabets(word: str) -> str:
    """A mark behind a word whose letters come from alphabets that pass for each other."""
    if word.isascii():
        return ""
    found = sorted({_alphabet(char) for char in word} & _ALPHABETS)
    if not found or found == ["LATIN"]:
        return ""
    lone = len(found) == 1 and not _reads_as_latin(word)
    return "" if lone else f"{_OPEN}letters: {', '.join(each.lower() for each in found)}{_CLOSE}"


def _alphabet(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0]


# letters of other alphabets that most typefaces draw like a Latin one
_LIKE_LATIN: Final = frozenset("АВЕЅІЈКМНОРСТУХасеѕіјорухһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοναρυԼՍՕհոսօաԱ")


def _reads_as_latin(word: str) -> bool:
    """Whether every letter of it could be read as a Latin one: `сосо` is Russian, and looks English."""
    letters = [char for char in word if char.isalpha()]
    return bool(letters) and all(char in _LIKE_LATIN for char in letters)
