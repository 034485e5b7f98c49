"""``linnet status``: where is it?

- On a terminal ``--watch`` redraws; into a pipe it prints what changed, one line each.
"""

import argparse
from collections.abc import Sequence
from datetime import datetime

from linnet_cli.errors import CliError, UnreachableError, UsageError
from linnet_cli.exits import Exit
from linnet_cli.kube import Kube
from linnet_cli.options import add_cluster_options, split_name
from linnet_cli.paint import Paint
from linnet_cli.reading import read_records
from linnet_cli.story import Story, tell
from linnet_cli.tree import draw, head, nodes_line
from linnet_cli.world import World

# A redraw of many nodes costs the API server a megabyte: look less often.
_LOOK_EVERY_S = 1.0
_LOOK_AT_MANY_EVERY_S = 5.0
_MANY_NODES = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``status`` takes."""
    parser.add_argument("deployment", nargs="?", metavar="DEPLOYMENT", help="default: all of them")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="in every namespace")
    parser.add_argument("-w", "--watch", action="store_true", help="go on until interrupted")
    parser.add_argument("-o", "--output", choices=("tree", "json", "yaml"), default="tree")
    parser.add_argument("--all-nodes", action="store_true", help="list every node, however many")
    add_cluster_options(parser)


def run(args: argparse.Namespace, world: World) -> int:
    """Print the status; 0 where it could be read, whatever it says."""
    if args.watch and args.output != "tree":
        raise UsageError("--watch draws trees: leave -o out, or call status again and again")
    kube = world.connect(args)
    if not args.watch:
        _print_once(args, world, kube)
        return Exit.OK
    if world.terminal:
        return _redraw(args, world, kube)
    return _print_changes(args, world, kube)


def read_stories(args: argparse.Namespace, world: World, kube: Kube) -> list[Story]:
    """Return the stories of the deployments that the arguments name."""
    namespace = None if args.all_namespaces else args.namespace or kube.namespace
    name = split_name(args.deployment) if args.deployment else None
    records = read_records(kube, now=world.now(), namespace=namespace, name=name)
    return [tell(record) for record in records]


def facts(story: Story) -> dict[str, str]:
    """Return the story as facts by subject, without what changes every second."""
    plain = Paint(unicode=False)
    found = {"": head(story, paint=plain)}
    if story.rollout:
        # While it runs, the sentence carries counts that change at every look.
        ending = story.rollout_message if story.ended else ""
        words = [story.phase, f"verdict {story.verdict}" if story.verdict else "", ending]
        found[f"rollout {story.rollout}"] = ", ".join(word for word in words if word)
    for step in story.steps:
        if step.begun:
            found[f"{story.rollout} step {step.number}"] = (
                f"{step.nodes}/{step.quota} nodes, {step.verdict or 'not measured'}"
            )
    subject, _, counts = nodes_line(story).partition(": ")
    found[subject] = counts
    for node in story.nodes:
        serves = f"serves {story.label(node.serves)}" if node.serves else "serves nothing"
        told = f"told {story.label(node.wanted)}" if node.wanted != node.serves else ""
        lost = "not heard of" if node.lost_s is not None else ""
        words = [node.state, serves, told, node.reason, lost]
        found[f"node {node.name}"] = ", ".join(word for word in words if word)
    return found


def _print_once(args: argparse.Namespace, world: World, kube: Kube) -> None:
    stories = read_stories(args, world, kube)
    if args.output != "tree":
        from linnet_cli.documents import to_document, write_document  # noqa: PLC0415 - start-up

        world.show(write_document(to_document(stories), args.output))
        return
    if not stories:
        where = f"{args.namespace or kube.namespace}; -A looks in every namespace"
        world.say(f"no ModelDeployments in {'the cluster' if args.all_namespaces else where}")
        return
    world.show("\n".join(_frame(stories, args, world)))


def _frame(stories: Sequence[Story], args: argparse.Namespace, world: World) -> list[str]:
    paint = paint_for(args, world)
    # Beside a tree's trunks and the terminal's edge; a pipe gets lines of a readable length.
    width = max(40, (world.size()[0] if world.terminal else 110) - 8)
    lines: list[str] = []
    for index, story in enumerate(stories):
        lines += [""] if index else []
        listed = len(stories) == 1 or args.all_nodes
        lines += draw(story, paint=paint, width=width, all_nodes=args.all_nodes, nodes=listed)
    return lines


def paint_for(args: argparse.Namespace, world: World) -> Paint:
    """Return what the output can show: Unicode where its encoding has it, colours on a terminal."""
    encoding = (getattr(world.out, "encoding", None) or "utf-8").lower().replace("-", "")
    return Paint(unicode=not args.ascii and encoding == "utf8", color=world.color)


def _redraw(args: argparse.Namespace, world: World, kube: Kube) -> int:
    while True:
        wait_s = _LOOK_EVERY_S
        try:
            stories = read_stories(args, world, kube)
            lines = _frame(stories, args, world)
            if sum(len(story.nodes) for story in stories) >= _MANY_NODES:
                wait_s = _LOOK_AT_MANY_EVERY_S
        except UnreachableError as error:
            lines = [f"{_clock(world.now())}  {error}"]
        height = world.size()[1]
        if len(lines) >= height:
            lines = [*lines[: height - 2], f"... {len(lines) - height + 2} more lines"]
        # Home, then each line with the rest of its row erased, then all below: no flicker. Lines
        # are cut, not wrapped (?7l), or the count of lines would be wrong.
        text = "".join(f"{line}\x1b[K\n" for line in lines)
        world.out.write(f"\x1b[?7l\x1b[H{text}\x1b[J\x1b[?7h")
        world.out.flush()
        world.sleep(wait_s)


def _print_changes(args: argparse.Namespace, world: World, kube: Kube) -> int:
    seen: dict[tuple[str, str, str], str] = {}
    trouble = ""
    while True:
        try:
            stories = read_stories(args, world, kube)
            trouble = ""
        except UnreachableError as error:
            if str(error) != trouble:
                world.say(f"linnet: {error}")
            trouble, stories = str(error), []
        except CliError:
            if not seen:
                raise
            world.say("linnet: the deployment is gone")
            return Exit.OK
        for story in stories:
            stamp = _clock(story.now)
            for subject, text in facts(story).items():
                key = (story.namespace, story.name, subject)
                if seen.get(key) != text:
                    seen[key] = text
                    prefix = f"{story.namespace}/{story.name}  {subject}: " if subject else ""
                    world.show(f"{stamp}  {prefix}{text}")
        world.sleep(_LOOK_EVERY_S)


def _clock(now: datetime) -> str:
    return now.strftime("%H:%M:%S")
