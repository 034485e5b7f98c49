"""The command line: a table of commands, of which only the called one is imported.

- Whatever is slow to import (models, TLS, YAML) waits for the command that needs it.
- Flags before the command count as flags behind it.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from linnet_cli.errors import CliError, UsageError
from linnet_cli.exits import Exit
from linnet_cli.world import World


class Command(NamedTuple):
    """A row of the table: where the command lives, and what it is for."""

    module: str
    help: str
    on_cluster: bool = True


_ACTS = "linnet_cli.commands.acts"

COMMANDS = {
    "status": Command("linnet_cli.commands.status", "where a model is on its way: a tree"),
    "explain": Command("linnet_cli.commands.explain", "why it is there, and what happens next"),
    "wait": Command("linnet_cli.commands.wait", "wait until a rollout has ended"),
    "approve": Command(_ACTS, "let the step begin that waits for a person"),
    "pause": Command(_ACTS, "stop every new move of the running rollout"),
    "resume": Command(_ACTS, "go on after a pause"),
    "abort": Command(_ACTS, "take the candidate back now"),
    "promote": Command(_ACTS, "go on although the evidence has not decided"),
    "retry": Command(_ACTS, "try again what was taken back"),
    "lint": Command("linnet_cli.commands.lint", "what a policy would see of the fleet, and when"),
    "version": Command("linnet_cli.commands.version", "print the version"),
    "judge": Command(
        "linnet_cli.commands.judge", "judge counts in a file, as a rollout would", on_cluster=False
    ),
    "keygen": Command("linnet_cli.publish.keys", "make a key for signing", on_cluster=False),
    "sign": Command("linnet_cli.publish.sign", "sign a model's files", on_cluster=False),
    "verify": Command("linnet_cli.publish.verify", "check a signed model", on_cluster=False),
    "push": Command(
        "linnet_cli.publish.push", "push a signed model to a registry", on_cluster=False
    ),
}

_TAKES_VALUE = frozenset({"-n", "--namespace", "--context", "--kubeconfig", "--request-timeout"})


def main(argv: Sequence[str], world: World) -> int:
    """Run one command line and return its exit code."""
    try:
        return _run(list(argv), world)
    except CliError as error:
        from linnet_cli.paint import printable  # noqa: PLC0415 - only on an error

        # What is wrong may quote a file or another machine.
        world.say("\n".join(printable(line) for line in f"linnet: {error}".split("\n")))
        return error.exit


def _run(argv: list[str], world: World) -> int:
    leading, argv = _split_leading(argv)
    if not argv or "-h" in leading or "--help" in leading or argv[0] == "help":
        if argv[1:2] and argv[1] in COMMANDS:
            return _run([argv[1], "--help"], world)
        world.show(usage(world.prog))
        return Exit.OK
    if "--version" in leading:
        leading, argv = [], ["version"]
    name = argv[0]
    if name not in COMMANDS:
        raise UsageError(_unknown(name, world.prog))
    command = COMMANDS[name]
    module = _load(command.module)
    parser = argparse.ArgumentParser(
        prog=f"{world.prog} {name}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        allow_abbrev=False,
        formatter_class=_formatter,
    )
    module.add_arguments(parser)
    try:
        args = parser.parse_args([*argv[1:], *leading])
    except SystemExit as stop:
        # argparse has printed: help on stdout (0), or usage and a sentence on stderr (2).
        return int(stop.code or 0)
    args.command = name
    return int(module.run(args, world) if command.on_cluster else module.run(args))


def usage(prog: str) -> str:
    """Return the page that ``--help`` prints."""
    lines = [
        f"usage: {prog} COMMAND [NAME] [flags]",
        "",
        "Rolls signed ML models out over fleets of edge nodes, and takes them back when they "
        "turn out bad.",
    ]
    for title, on_cluster in (("on a cluster", True), ("without a cluster", False)):
        lines += ["", f"{title}:"]
        lines += [f"  {n:<9}{c.help}" for n, c in COMMANDS.items() if c.on_cluster == on_cluster]
    lines += [
        "",
        f"`{prog} COMMAND --help` shows the flags. Exit codes: 0 ok, 1 error, 2 usage, 3 taken "
        "back or",
        "degraded, 4 timeout, 5 refused by trust, 6 waits for a person.",
    ]
    return "\n".join(lines)


def _formatter(prog: str) -> argparse.HelpFormatter:
    # With a width of its own argparse does not import shutil, which costs 5 ms at each command.
    return argparse.HelpFormatter(prog, max_help_position=28, width=100)


def _split_leading(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return (flags that stand before the command, the rest)."""
    index = 0
    while index < len(argv) and argv[index].startswith("-"):
        index += 2 if argv[index] in _TAKES_VALUE else 1
    return argv[:index], argv[index:] or (["version"] if "--version" in argv else [])


def _load(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - one of the modules of the table
    import importlib  # noqa: PLC0415 - start-up

    return importlib.import_module(name)


def _unknown(name: str, prog: str) -> str:
    import difflib  # noqa: PLC0415 - only on this error

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"`{prog} --help` lists them"
    return f"there is no command {name!r}: {hint}"
