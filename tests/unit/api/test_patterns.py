"""What people write into policies means what it means elsewhere, and costs no more."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet_api.patterns import compile_glob, compile_regexp


@pytest.mark.parametrize(
    ("glob", "text", "matches"),
    [
        ("factory/*", "factory/digits", True),
        ("factory/*", "factory/a/b", False),
        ("factory/**", "factory/a/b", True),
        ("*", "a/b", False),
        ("**", "", True),
        ("*", "", True),
        ("oci://r/**", "oci://registry/x", False),
        ("a.b", "axb", False),
        ("a?", "ab", False),
        ("[ab]", "a", False),
        ("**/x*y", "1/x/2/xzy", True),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_globs_know_two_wildcards_and_nothing_else(glob, text, matches):
    assert compile_glob(glob).matches(text) is matches


@given(st.text("ab/*", max_size=12), st.text("ab/", max_size=12))
def test_globs_agree_with_the_regular_expression(glob, text):
    parts = re.split(r"(\*\*+|\*)", glob)
    pattern = "".join(
        ".*" if part.startswith("**") else "[^/]*" if part == "*" else re.escape(part)
        for part in parts
    )

    assert compile_glob(glob).matches(text) == bool(re.fullmatch(pattern, text))


def test_a_malicious_glob_costs_no_more_than_a_kind_one():
    assert not compile_glob("**a" * 80 + "b").matches("a" * 1024)


_atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", r"\.", r"\d", r"\W", "-", "[a-c-]", "[-a]", r"[a\-c]", r"[\d/]"]
)
_expressions = st.recursive(
    _atoms,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})")
        | st.tuples(
            inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}", "{0}", "{2,3}"])
        ).map(lambda pair: f"(?:{pair[0]}){pair[1]}")
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(_expressions, st.text("ab.-1_/c\n", max_size=7))
def test_an_expression_means_what_it_means_in_python(pattern, text):
    assert compile_regexp(pattern).matches(text) == bool(re.fullmatch(pattern, text, re.ASCII))


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.text("ab()[]{}*+?|^$\\d-,12.", max_size=9), st.text("ab1-$^", max_size=4))
def test_what_is_no_expression_in_python_is_none_here(pattern, text):
    try:
        ours = compile_regexp(pattern)
    except ValueError:
        return

    assert ours.matches(text) == bool(re.fullmatch(pattern, text, re.ASCII))


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"(a)\1", id="a back reference"),
        pytest.param("(?=a)a", id="look-ahead"),
        pytest.param("(?<!a)b", id="look-behind"),
        pytest.param("(?i)a", id="a flag"),
        pytest.param("(?P<x>a)", id="a named group"),
        pytest.param("a**", id="a quantifier of a quantifier"),
        pytest.param("*a", id="a quantifier of nothing"),
        pytest.param("a{2,1}", id="from high to low"),
        pytest.param("a{", id="a brace alone"),
        pytest.param("a)", id="closed, not opened"),
        pytest.param("(a", id="opened, not closed"),
        pytest.param("[a", id="a class without end"),
        pytest.param("[]", id="an empty class"),
        pytest.param("[b-a]", id="a range from high to low"),
        pytest.param("a^b", id="an anchor in the middle"),
        pytest.param(r"\b", id="a word boundary"),
        pytest.param("a\\", id="a backslash at the end"),
        pytest.param("(" * 40 + "a" + ")" * 40, id="deeper than anybody writes"),
        pytest.param("((a{250}){250})", id="longer than anybody writes"),
        pytest.param("((((){250}){250}){250})", id="nothing, very often"),
    ],
)
def test_what_is_not_known_is_an_error_and_never_a_literal(pattern):
    with pytest.raises(ValueError, match="at character"):
        compile_regexp(pattern)


@pytest.mark.parametrize("pattern", ["((a*)*)*b", "(a|a)*b", "(.*)(.*)(.*)(.*)b", "(a?){200}b"])
def test_a_malicious_expression_costs_no_more_than_a_kind_one(pattern):
    assert not compile_regexp(pattern).matches("a" * 2048)


def test_an_expression_matches_whole_with_or_without_anchors():
    subject = "https://github.com/acme/models/.github/workflows/release.yml@refs/tags/v1.2"
    pattern = r"https://github\.com/acme/models/\.github/workflows/release\.yml@refs/tags/v[0-9.]+"

    assert compile_regexp(pattern).matches(subject)
    assert compile_regexp(f"^{pattern}$").matches(subject)
    assert not compile_regexp(pattern).matches(f"x{subject}")
    assert not compile_regexp(pattern).matches(f"{subject}-rc")
    assert not compile_regexp(pattern).matches(subject.replace(".", "x"))
