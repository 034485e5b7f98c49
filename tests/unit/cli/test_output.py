"""Data that cannot be written: one sentence on stderr, and no success."""

import subprocess
import sys

import pytest

from linnet_cli.exits import Exit

pytestmark = pytest.mark.slow

COMMANDS = [
    pytest.param("version", id="a command on a cluster"),
    pytest.param("judge --schema", id="a command without a cluster"),
    pytest.param("--help", id="our page of help"),
    pytest.param("lint --help", id="the parser's page of help"),
]


def run(command, *, to, unbuffered):
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -m linnet_cli {command} {to}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONUNBUFFERED": unbuffered},
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("to", "why"), [("> /dev/full", "No space left on device"), (">&-", "it is closed")]
)
def test_a_full_or_closed_stdout_ends_with_one_sentence(command, to, why, unbuffered):
    done = run(command, to=to, unbuffered=unbuffered)

    assert (done.returncode, done.stderr) == (
        Exit.ERROR,
        f"linnet: stdout cannot be written: {why}\n",
    )


def test_without_stderr_as_well_it_is_no_success():
    assert run("version", to=">&- 2>&-", unbuffered="").returncode == Exit.ERROR


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_gone_is_no_error(command):
    gone = "import os; os.read(0, 1)"
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m linnet_cli {command} | "$0" -c "{gone}"', sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stderr == ""
