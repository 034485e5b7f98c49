"""``linnet judge``: what the judge says of counts in a file, without a cluster.

- It is what a sceptic runs on data of their own; the code is that of a rollout.
- Bad data end with a sentence that names the node and the field (exit 1).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from linnet_cli.errors import CaseError
from linnet_cli.exits import Exit
from linnet_cli.judging import judge_cases, read_cases, schema
from linnet_cli.paint import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``judge`` takes."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-f", "--file", metavar="FILE", help="a case, or a list of cases; - is stdin")
    what.add_argument("--schema", action="store_true", help="print the JSON Schema and end")
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="form (table)"
    )


def run(args: argparse.Namespace) -> int:
    """Judge the cases of a file."""
    if args.schema:
        print(json.dumps(schema(), indent=2))
        return Exit.OK
    answers = judge_cases(read_cases(_read(args.file)))
    if args.output == "json":
        # Compact: a list of cases can be long, and a program reads it.
        data: Any = (
            [each.model_dump(mode="json") for each in answers]
            if isinstance(answers, list)
            else answers.model_dump(mode="json")
        )
        print(json.dumps(data, separators=(",", ":")))
        return Exit.OK
    for answer in answers if isinstance(answers, list) else [answers]:
        print(printable(answer.metric))
        print(f"  {'LOOK':<6}{'LOG E':>10}{'FLEET':>8}{'EXCLUDED':>10}  VERDICT")
        for number, look in enumerate(answer.looks, 1):
            excluded = "-" if look.excluded is None else f"x{look.excluded:g}"
            print(
                f"  {number:<6}{look.log_e:>10.2f}{look.fleet_factor:>8.2f}{excluded:>10}"
                f"  {look.verdict}"
            )
    return Exit.OK


def _read(name: str) -> str:
    what = "stdin" if name == "-" else name
    if name == "-" and sys.stdin is None:
        raise CaseError("stdin cannot be read: it is closed")
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        # Some editors write a mark before the text.
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{what} cannot be read: {error}") from error
