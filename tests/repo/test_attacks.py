"""The page of attacks names tests that are there, and reasons of the closed list."""

import ast
import functools
import re
from pathlib import Path

import pytest

from linnet_api.reasons import NodeReason

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "attacks.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and any(f"`{part}/" in line for part in ("unit", "crash", "planner"))
]
REFERENCE = re.compile(
    r"`(?P<file>[a-z_/]+\.py)(?:::(?P<test>test_\w+)(?:\[(?P<cases>[^]`]+)\])?)?`"
)


@functools.cache
def _strings_and_tests(file):
    nodes = list(ast.walk(ast.parse((TESTS / file).read_text())))
    strings = {node.value for node in nodes if isinstance(node, ast.Constant)}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return strings, {node.name for node in nodes if isinstance(node, kinds)}


def test_every_row_names_a_test():
    assert len(ROWS) >= 60
    assert [row[0] for row in ROWS if len(row) != 4 or not REFERENCE.search(row[3])] == []


@pytest.mark.slow
def test_every_test_that_is_named_is_there():
    missing = []
    for row in ROWS:
        assert REFERENCE.sub("", row[3]).strip() == "", row[3]
        for found in REFERENCE.finditer(row[3]):
            strings, tests = _strings_and_tests(found["file"])
            wanted = {found["test"]} - {None}
            cases = set((found["cases"] or "").split("; ")) - {""}
            missing += sorted((wanted - tests) | (cases - strings))

    assert missing == []


def test_every_reason_is_of_the_closed_list():
    known = {reason.value for reason in NodeReason} - {""} | {"-"}

    assert {word for row in ROWS for word in row[2].split(", ")} <= known
