"""Every difference from a real Triton is in docs/open-inference-protocol.md, and no other."""

import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `bench`, which has Triton's environment
sys.path.insert(0, str(Path(__file__).parent))

import triton_differential
from bench.environments import MissingPeerError

DOCUMENT = Path(__file__).parents[2] / "docs" / "open-inference-protocol.md"


def read_rows():
    """Return the table's rows: (patterns of requests, what, Triton's, Linnet's)."""
    _, _, table = DOCUMENT.read_text().partition("| requests | what | Triton | Linnet | why |\n")
    rows = []
    for line in table.splitlines()[1:]:
        requests, *facts, why = (cell.strip() for cell in line.strip("|").split("|"))
        assert why or "name" in facts, line
        rows.append(([one.strip() for one in requests.split(";")], *facts))
    return rows


def is_told(row, difference):
    patterns, *facts = row
    case, *found = difference
    return any(fnmatchcase(case, pattern) for pattern in patterns) and all(
        fnmatchcase(value, pattern) for pattern, value in zip(facts, found, strict=True)
    )


@pytest.mark.slow
def test_every_difference_from_triton_is_documented_and_no_other(tmp_path):
    try:
        with triton_differential.start_both(tmp_path, install=False) as peers:
            found = triton_differential.compare(*peers)
    except MissingPeerError as error:
        pytest.skip(f"no Triton here: {error}")

    rows = read_rows()
    untold = [one for one in found if not any(is_told(row, one) for row in rows)]
    stale = [row for row in rows if not any(is_told(row, one) for one in found)]
    assert untold == []
    assert stale == []
