r"""Patterns that people write into policies, matched in linear time whatever pattern and text are.

- A glob has two wildcards: ``*`` is anything but a slash, ``**`` is anything; the rest is literal.
- A regular expression matches the whole text. It knows literals, ``. [] () | * + ? {m,n}``, ``\d``
  ``\w`` ``\s`` (ASCII) and their opposites, and escaped punctuation; what it knows means what it
  means in Python.
- What it does not know (look-around, back references, flags) is an error, never a literal.

Both become automata over bit sets: Python's own ``re`` takes exponential time on some patterns, and
a policy comes over the network.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

_MAX_POSITIONS: Final = 1024
_MAX_ATOMS: Final = 4096
_MAX_DEPTH: Final = 32
_MAX_REPEAT: Final = 256
_SPECIAL: Final = "*+?{}()[]|^$"
_Ranges = tuple[tuple[str, str], ...]
_ESCAPES: Final[Mapping[str, _Ranges]] = {
    "d": (("0", "9"),),
    "w": (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z")),
    "s": (("\t", "\r"), (" ", " ")),
}


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled glob."""

    literals: Mapping[str, int]
    """Character to the positions that take it."""
    stars: int
    """Positions of ``*``: they stay on anything but a slash."""
    globstars: int
    """Positions of ``**``: they stay on anything."""
    accepting: int

    def matches(self, text: str) -> bool:
        """Return true where the glob matches the whole of ``text``."""
        active = self._skip_stars(1)
        for char in text:
            stay = active & (self.globstars if char == "/" else self.globstars | self.stars)
            active = self._skip_stars((active & self.literals.get(char, 0)) << 1 | stay)
            if not active:
                return False
        return bool(active & self.accepting)

    def _skip_stars(self, active: int) -> int:
        return active | (active & (self.stars | self.globstars)) << 1


@functools.lru_cache(maxsize=256)
def compile_glob(glob: str) -> Glob:
    """Compile a glob; every text is one."""
    literals: dict[str, int] = {}
    stars = globstars = 0
    position = 0
    for part in re.findall(r"\*+|[^*]", glob, re.DOTALL):
        if part == "*":
            stars |= 1 << position
        elif part.startswith("*"):
            globstars |= 1 << position
        else:
            literals[part] = literals.get(part, 0) | 1 << position
        position += 1
    return Glob(literals, stars, globstars, 1 << position)


@dataclass(frozen=True, slots=True)
class _Class:
    """The characters that one position takes."""

    ranges: _Ranges
    negated: bool = False

    def takes(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) != self.negated


@dataclass(frozen=True, slots=True)
class Regexp:
    """A compiled regular expression: the positions of its characters, and who follows whom."""

    classes: tuple[_Class, ...]
    follow: tuple[int, ...]
    """Of each position, the set of those that may come next."""
    first: int
    last: int
    nullable: bool

    def matches(self, text: str) -> bool:
        """Return true where the expression matches the whole of ``text``."""
        if not text:
            return self.nullable
        takers: dict[str, int] = {}
        expected, matched = self.first, 0
        for char in text:
            if char not in takers:
                takers[char] = self._takers(char)
            matched = expected & takers[char]
            if not matched:
                return False
            expected = _union(self.follow, matched)
        return bool(matched & self.last)

    def _takers(self, char: str) -> int:
        return sum(1 << position for position, one in enumerate(self.classes) if one.takes(char))


@functools.lru_cache(maxsize=256)
def compile_regexp(pattern: str) -> Regexp:
    """Compile a regular expression.

    Raises:
        ValueError: It is not one, or uses what is not known here; the message says what and where.
    """
    parser = _Parser(pattern)
    whole = parser.read()
    return Regexp(
        tuple(parser.classes), tuple(parser.follow), whole.first, whole.last, whole.nullable
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of an expression: which positions may begin it, and which may end it."""

    first: int = 0
    last: int = 0
    nullable: bool = True


@dataclass(slots=True)
class _Parser:
    """Reads an expression by recursive descent and numbers its characters (Glushkov)."""

    text: str
    at: int = 0
    depth: int = 0
    atoms: int = 0
    classes: list[_Class] = field(default_factory=list[_Class])
    follow: list[int] = field(default_factory=list[int])

    def read(self) -> _Part:
        whole = self._alternatives()
        if self.at < len(self.text):
            self._fail("a ) that closes nothing")
        return whole

    def _alternatives(self) -> _Part:
        part = self._sequence()
        while self._take("|"):
            other = self._sequence()
            part = _Part(
                part.first | other.first, part.last | other.last, part.nullable or other.nullable
            )
        return part

    def _sequence(self) -> _Part:
        part = _Part()
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if self._is_anchor():
                self.at += 1
            else:
                part = self._join(part, self._repeated())
        return part

    def _is_anchor(self) -> bool:
        """``^`` and ``$`` around the whole say what is so anyway."""
        char = self.text[self.at]
        return (char == "^" and self.at == 0) or (char == "$" and self.at == len(self.text) - 1)

    def _repeated(self) -> _Part:
        start, depth = self.at, self.depth
        part = self._atom()
        end = self.at
        least, most = self._quantifier()
        after = self.at
        if (least, most) == (1, 1):
            return part

        def again() -> _Part:
            self.at, self.depth = start, depth
            copy = self._atom()
            assert self.at == end
            return copy

        part = self._repeat(part, again, least=least, most=most)
        self.at = after
        if self.at < len(self.text) and self.text[self.at] in "*+?{":
            self._fail("a quantifier after a quantifier")
        return part

    def _repeat(
        self, part: _Part, again: Callable[[], _Part], *, least: int, most: int | None
    ) -> _Part:
        if most == 0:
            return _Part()
        whole = part if least else _Part(part.first, part.last, nullable=True)
        latest = whole
        for count in range(1, max(least, most or 1)):
            copy = again()
            latest = copy if count < least else _Part(copy.first, copy.last, nullable=True)
            whole = self._join(whole, latest)
        if most is None:
            self._link(latest.last, latest.first)
        return whole

    def _quantifier(self) -> tuple[int, int | None]:
        if self._take("*"):
            return 0, None
        if self._take("+"):
            return 1, None
        if self._take("?"):
            return 0, 1
        if self.at < len(self.text) and self.text[self.at] == "{":
            found = re.compile(r"\{([0-9]{1,3})(,([0-9]{0,3}))?\}").match(self.text, self.at)
            if found is None:
                self._fail(r"a { that is no {m,n}; write \{")
            self.at = found.end()
            least = int(found[1])
            most = least if found[2] is None else int(found[3]) if found[3] else None
            if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
                self._fail(f"a repeat that is not from low to high, or above {_MAX_REPEAT}")
            return least, most
        return 1, 1

    def _atom(self) -> _Part:
        char = self.text[self.at]
        self.at += 1
        self.atoms += 1
        if self.atoms > _MAX_ATOMS:  # an empty group that is repeated places nothing
            self._fail(f"more than {_MAX_ATOMS} parts, repeats written out")
        if char == "(":
            return self._group()
        if char == "[":
            return self._place(self._bracket())
        if char == ".":
            return self._place(_Class((("\n", "\n"),), negated=True))
        if char == "\\":
            return self._place(self._escape())
        if char in _SPECIAL:
            self.at -= 1
            self._fail(f"a {char} where none can be; write \\{char} for the character")
        return self._place(_Class(((char, char),)))

    def _group(self) -> _Part:
        if self._take("?") and not self._take(":"):
            self._fail("a group that starts with (?; only ( ) and (?: ) are known")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self._fail(f"groups deeper than {_MAX_DEPTH}")
        part = self._alternatives()
        if not self._take(")"):
            self._fail("a ( that is not closed")
        self.depth -= 1
        return part

    def _bracket(self) -> _Class:
        negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        while not self._take("]"):
            low = self._bracket_item()
            single = len(low) == 1 and low[0][0] == low[0][1]
            if (
                single
                and self.text[self.at : self.at + 1]
                == "-"
                != self.text[self.at + 1 : self.at + 2]
                != "]"
            ):
                self.at += 1
                high = self._bracket_item()
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    self._fail("a range that does not go from low to high")
                ranges.append((low[0][0], high[0][0]))
            else:
                ranges += low
        if not ranges:
            self._fail(r"an empty []; write \] for the character")
        return _Class(tuple(ranges), negated)

    def _bracket_item(self) -> _Ranges:
        if self.at >= len(self.text):
            self._fail("a [ that is not closed")
        char = self.text[self.at]
        self.at += 1
        if char == "\\":
            escaped = self._escape()
            if escaped.negated:
                self._fail("a negated escape in []")
            return escaped.ranges
        if char == "[":
            self._fail(r"a [ in []; write \[")
        return ((char, char),)

    def _escape(self) -> _Class:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char.lower() in _ESCAPES and char:
            return _Class(_ESCAPES[char.lower()], negated=char.isupper())
        if not char or (char.isascii() and char.isalnum()) or not char.isascii():
            self._fail(f"an unknown escape \\{char}")
        return _Class(((char, char),))

    def _place(self, one: _Class) -> _Part:
        if len(self.classes) >= _MAX_POSITIONS:
            self._fail(f"more than {_MAX_POSITIONS} characters, repeats written out")
        self.classes.append(one)
        self.follow.append(0)
        bit = 1 << (len(self.classes) - 1)
        return _Part(bit, bit, nullable=False)

    def _join(self, left: _Part, right: _Part) -> _Part:
        self._link(left.last, right.first)
        return _Part(
            left.first | (right.first if left.nullable else 0),
            right.last | (left.last if right.nullable else 0),
            left.nullable and right.nullable,
        )

    def _link(self, last: int, first: int) -> None:
        for position in range(last.bit_length()):
            if last >> position & 1:
                self.follow[position] |= first

    def _take(self, char: str) -> bool:
        found = self.text.startswith(char, self.at)
        self.at += found
        return found

    def _fail(self, fact: str) -> NoReturn:
        message = f"{fact} (at character {min(self.at, len(self.text)) + 1})"
        raise ValueError(message)


def _union(follow: tuple[int, ...], matched: int) -> int:
    result = 0
    while matched:
        lowest = matched & -matched
        result |= follow[lowest.bit_length() - 1]
        matched ^= lowest
    return result
