"""The house stands as DESIGN section 5 says, and nothing shadows the standard library."""

import operator
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["operator", "agent", "api", "cli", "testbed"])
def test_no_python_file_lies_directly_in_a_part(name):
    assert [p.name for p in (ROOT / name).glob("*.py")] == []


@pytest.mark.parametrize("name", ["operator", "agent", "api", "cli", "testbed"])
def test_no_test_lies_below_a_part(name):
    found = [p for pattern in ("test_*.py", "conftest.py") for p in (ROOT / name).rglob(pattern)]

    assert found == []


def test_operator_is_the_standard_librarys():
    assert Path(operator.__file__).is_relative_to(sysconfig.get_path("stdlib"))


@pytest.mark.slow
def test_operator_is_the_standard_librarys_in_a_fresh_interpreter_too():
    code = "import operator, kopf; print(operator.add(1, 2))"

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stdout.strip() == "3", done.stderr
