"""Templates: every word is filled in, and what can never be asked is said when it is written."""

from datetime import timedelta

import pytest

from linnet_operator.templates import WORDS, fill_in, query_problem, unaskable, words_of


def words(nodes=("edge-1", "edge-2")):
    return words_of(
        namespace="factory",
        deployment="digits",
        revision="abc",
        baseline=None,
        window=timedelta(seconds=61.5),
        nodes=nodes,
    )


def test_every_word_of_a_query_is_filled_in_and_strangers_stay():
    query = "{{namespace}} {{ deployment }} {{revision}}{{baseline}} {{window}} {{nodes}} {{other}}"

    assert fill_in(query, words()) == "factory digits abc 61s edge-1|edge-2 {{other}}"
    assert tuple(words()) == WORDS


def test_nodes_match_the_nodes_that_are_meant_and_no_others():
    """A dot in a name is any letter to a regular expression: edge.1 would be edge-1 as well."""
    assert (
        fill_in("{{nodes}}", words(["edge.1", "edge-2.site.de"])) == "edge[.]1|edge-2[.]site[.]de"
    )


def test_more_nodes_than_can_be_named_are_not_asked_about():
    most, more = ([f"edge-{n}" for n in range(count)] for count in (1000, 1001))

    assert unaskable("max(t{node=~'{{ nodes }}'})", words(most)) == ""
    assert "more than 1000" in unaskable("max(t{node=~'{{ nodes }}'})", words(more))
    assert unaskable("max(t{revision='{{revision}}'})", words(more)) == ""


@pytest.mark.parametrize(
    "query",
    [
        'max(t{node=~"{{nodes}}"}) > bool 3',
        'sum(rate(x{a="}"}[{{window}}])) # until )',
        "`{` == 'a\\'b'",
        "1",
    ],
)
def test_a_query_that_may_be_asked_has_no_problem(query):
    assert query_problem(query) == ""


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (
            "max(t{r='{{revison}}'})",
            "{{revison}} is no word that is filled in; there are namespace",
        ),
        ("max(t", "'(' is never closed"),
        ("max(t))", "')' closes nothing"),
        ("x[5m}", "'}' closes nothing"),
        ('t{a="b}', 'a text in " does not end'),
        ("# only words", "there is no query"),
        ("  ", "there is no query"),
    ],
)
def test_a_query_that_can_never_be_asked_says_why(query, says):
    assert says in query_problem(query)
