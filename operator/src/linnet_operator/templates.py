"""A threshold's query: its ``{{words}}``, and what can be said of it before it is asked.

Rules:
- Every word is filled in; one that nobody knows is a problem of the policy, not of the rollout.
- A first rollout has no baseline: what names it is not asked there.
- ``{{nodes}}`` matches the nodes that are meant and no others: a dot is a dot. More than can be
  named are not asked about, rather than all nodes that there are.
- Only what PromQL can never be is refused here; the rest Prometheus says at ``linnet lint``.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from linnet_api.rollout_policy import Threshold

WORDS: Final = ("namespace", "deployment", "revision", "baseline", "window", "nodes")
# Prometheus 2.42 takes 0.1 s for a query of 1000 names; the record of a look keeps each query.
_MOST_NODES_IN_QUERY: Final = 1000
_WORD: Final = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_CLOSES: Final = {")": "(", "]": "[", "}": "{"}


def words_of(
    *,
    namespace: str,
    deployment: str,
    revision: str,
    baseline: str | None,
    window: timedelta,
    nodes: Sequence[str],
) -> dict[str, str]:
    """Return what the words stand for."""
    return {
        "namespace": namespace,
        "deployment": deployment,
        "revision": revision,
        "baseline": baseline or "",
        "window": f"{max(1, int(window.total_seconds()))}s",
        # "[.]" needs no backslash, which the three ways to quote in PromQL read differently.
        "nodes": "|".join(node.replace(".", "[.]") for node in nodes)
        if len(nodes) <= _MOST_NODES_IN_QUERY
        else "",
    }


def fill_in(query: str, words: Mapping[str, str]) -> str:
    """Return a query with its ``{{words}}`` filled in; unknown ones stay."""
    return _WORD.sub(lambda found: words.get(found[1], found[0]), query)


def unaskable(query: str, words: Mapping[str, str]) -> str:
    """Return why a query cannot be asked with these words; empty where it can."""
    if words["nodes"] or "nodes" not in _WORD.findall(query):
        return ""
    return (
        f"the query names {{{{nodes}}}}, which are more than {_MOST_NODES_IN_QUERY} here; join on "
        'linnet_model_info{revision="{{revision}}"} by node instead'
    )


def asked(thresholds: Sequence[Threshold], *, first_rollout: bool) -> tuple[Threshold, ...]:
    """Return the thresholds that are asked: in a first rollout, those that name no baseline."""
    return tuple(
        each
        for each in thresholds
        if not (first_rollout and "baseline" in _WORD.findall(each.query))
    )


def query_problem(query: str) -> str:
    """Return why a query can never be asked; empty where it may be."""
    unknown = [found for found in _WORD.findall(query) if found not in WORDS]
    if unknown:
        return f"{{{{{unknown[0]}}}}} is no word that is filled in; there are {', '.join(WORDS)}"
    return _structure_problem(_WORD.sub("x", query))


def _structure_problem(text: str) -> str:
    open_at: list[str] = []
    quote, escaped, comment, empty = "", False, False, True
    for letter in text:
        if comment:
            comment = letter != "\n"
        elif quote:
            if escaped or (letter == "\\" and quote != "`"):
                escaped = not escaped
            elif letter == quote:
                quote = ""
        elif letter in "\"'`":
            quote, empty = letter, False
        elif letter == "#":
            comment = True
        elif letter in "([{":
            open_at.append(letter)
        elif letter in _CLOSES:
            if not open_at or open_at.pop() != _CLOSES[letter]:
                return f"{letter!r} closes nothing that is open"
        elif not letter.isspace():
            empty = False
    if quote:
        return f"a text in {quote} does not end"
    if open_at:
        return f"{open_at[-1]!r} is never closed"
    return "there is no query" if empty else ""
