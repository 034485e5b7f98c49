"""Exit codes: what a script may match on; the same table stands in the README of the CLI.

- Taken back, refused by trust and still running are different codes.
"""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    ERROR = 1
    USAGE = 2
    TAKEN_BACK = 3
    TIMEOUT = 4
    REFUSED = 5
    WAITS_FOR_PERSON = 6
    INTERRUPTED = 130
