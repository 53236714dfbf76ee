"""Text from strangers, made safe to look at: what a person reads is what is there, and nothing else. Pure.

Nothing that is invisible, that turns the direction of reading, that stands for another character, or that
mixes alphabets within a word reaches the eye unmarked. Marks stand between ⟨ and ⟩, which are themselves
marked where they come from outside, so two different texts never look the same.

Sources: UTS 39 (confusables, mixed scripts), UAX 9 (directions), UAX 44 (what is not drawn).
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
_RIGHT: Final = ("R", "AL", "AN")
RIGHT_TO_LEFT: Final = f"{_OPEN}right to left{_CLOSE}"
_SPACES: Final = re.compile(r" {2,}")
# drawn as nothing, or as a blank, though Unicode calls them letters, marks and symbols: what has the property
# Default_Ignorable_Code_Point, and the blank ones that have not
_BLANK: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0xFFFC, 0x16FE4, 0x1D159),
            *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000),
        ),
    )
)  # fmt: skip
# drawn like signs of ASCII that part names, paths and numbers, like our marks, or like our quotation marks
_SIGNS: Final = frozenset(
    "\u01c0\u01c1\u01c2\u01c3\u02b9\u02ba\u02c2\u02c3\u02d0\u02d7\u02ee\u0387\u0589\u058a"
    "\u066a\u066d\u1400\u1680\u16eb\u1806\u1804\u2010\u2012\u201a\u201b\u201f\u2032\u2035"
    "\u2039\u203a\u2044\u204e\u2052\u205a\u2212\u2215\u2216\u2217\u2219\u2223\u2236\u223c\u2329\u232a\u2571\u2573"
    "\u2768\u2769\u276a\u276b\u276c\u276d\u276e\u276f\u2770\u2771\u2772\u2773\u2774\u2775\u27cb\u27cd\u2983\u2984\u29f5\u29f8"
    "\u29f9\u29fc\u29fd\u2cf9\u2cfb\u2e40\u2f02\u2f03\u3003\u3008\u3009\u3014\u3015\u301d\u301e\u301f\u30a0\ua4f8\ua4fa"
    "\ua4fd\ua60e\ua6f3\ua789\ua78a\ua78b\ua78c"
)
_DECEIVE: Final = _BLANK | _SIGNS | {_OPEN, _CLOSE}
_WORD: Final = re.compile(r"\w+")
# the alphabets whose letters pass for Latin ones, and Latin itself; others cannot be taken for each other
_RARE: Final = "RARE LATIN"
_ALPHABETS: Final = frozenset({"LATIN", _RARE, "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})


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


def turns(text: str) -> bool:
    """Whether something in it is read from right to left."""
    return not text.isascii() and any(unicodedata.bidirectional(char) in _RIGHT for char in text)


def _marked(text: str) -> str:
    """Where a text has both directions, no word may move: the mark behind each reads from the left."""
    both = turns(text) and any(_is_left(char) for char in text)
    shown, ends = _characters(text), dict[int, str]()
    if both:
        _fix(text, shown)
    for word in _WORD.finditer(text):
        told = shown[slice(*word.span())]
        kept = "".join(char for char, its in zip(word[0], told, strict=True) if char == its)
        ends[word.end()] = _digits(kept) + _alphabets(kept) + (RIGHT_TO_LEFT if both and turns(kept) else "")
    return _SPACES.sub(_counted, "".join(f"{char}{ends.get(at, '')}" for at, char in enumerate(shown, 1)))


def _is_left(char: str) -> bool:
    return unicodedata.bidirectional(char) in ("L", "EN")


def _fix(text: str, shown: list[str]) -> None:
    """Name what turns within a word that is read from the left, and signs that turn what is round them."""
    lone = {at for at, char in enumerate(text) if turns(char)}
    for word in _WORD.finditer(text):
        if turns(word[0]) and not any(_is_left(char) for char in word[0]):
            lone -= set(range(*word.span()))
    for at in lone:
        shown[at] = _named(text[at])


def _counted(found: re.Match[str]) -> str:
    return f"{_OPEN}{len(found[0])} spaces{_CLOSE}"


def _characters(text: str) -> list[str]:
    """Each character, or its name in place of it. What a normal form would join or reorder is named too."""
    normal = unicodedata.is_normalized("NFC", text)
    out: list[str] = []
    marks, stack, before, on_letter = 0, 0, "", False
    for char in text:
        kind, joins = unicodedata.category(char), unicodedata.combining(char) != 0
        marks = marks + 1 if joins else 0
        stack = stack + 1 if joins or kind == "Mn" else 0
        on_letter = on_letter if kind.startswith("M") else char.isalpha()
        strays = not normal and (joins or not unicodedata.is_normalized("NFC", before + char))
        piled = marks > _MARKS_MAX or stack > _STACK_MAX or (stack > 0 and not on_letter)
        out.append(_named(char) if strays or piled or _is_doubtful(char) else char)
        before = char
    return out


def _is_doubtful(char: str) -> bool:
    if " " <= char <= "~":
        return False
    kind = unicodedata.category(char)
    stands_for_another = unicodedata.normalize("NFKC", char) != char
    return kind in _HIDDEN or kind == "Zs" or char in _DECEIVE or stands_for_another


def _named(char: str) -> str:
    return f"{_OPEN}U+{ord(char):04X}{_CLOSE}"


def _digits(word: str) -> str:
    """A mark behind a word with digits of another script: some are drawn like ours of another value."""
    if word.isascii():
        return ""
    found = sorted({_alphabet(char) for char in word if char.isdecimal() and not char.isascii()})
    return f"{_OPEN}digits: {', '.join(each.lower() for each in found)}{_CLOSE}" if found else ""


def _alphabets(word: str) -> str:
    """A mark behind a word whose letters come from alphabets that pass for each other."""
    if word.isascii():
        return ""
    found = sorted({_alphabet(char) for char in word if not char.isdecimal()} & _ALPHABETS)
    if not found or found == ["LATIN"]:
        return ""
    lone = len(found) == 1 and found != [_RARE] and not _reads_as_latin(word)
    return "" if lone else f"{_OPEN}letters: {', '.join(each.lower() for each in found)}{_CLOSE}"


def _alphabet(char: str) -> str:
    first = unicodedata.name(char, "").partition(" ")[0]
    return _RARE if first == "LATIN" and _is_rare(ord(char)) else first


def _is_rare(code: int) -> bool:
    """Latin beyond what the languages of Europe, Vietnam and Turkey are written with: phonetics, and more."""
    return not (code < 0x180 or 0x1CD <= code <= 0x24F or 0x1A0 <= code <= 0x1B0 or 0x1E00 <= code <= 0x1EFF)


# letters of other alphabets that most typefaces draw like a Latin one
_LIKE_LATIN: Final = frozenset("АВЕЅІЈКМНОРСТУХасеѕіјорухһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧοναρυԼՍՕհոսօաԱ")


def _reads_as_latin(word: str) -> bool:
    """Whether every letter of it could be read as a Latin one: `сосо` is Russian, and looks English."""
    letters = [char for char in word if char.isalpha()]
    return bool(letters) and all(char in _LIKE_LATIN for char in letters)
