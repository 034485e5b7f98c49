"""``linnet wait``: for scripts, with an exit code for every way that a rollout can go.

Rules:
- Only what the operator has seen counts: right after an apply the old rollout's end is no answer.
- A rollout that waits for a person ends the wait: nothing moves while a script sleeps.
- Anything but success counts when two looks in a row see it: an apply of several objects passes
  through states that look bad for a moment.
"""

import argparse
from typing import NamedTuple

from linnet_cli.contract import WAITS_FOR_PERSON
from linnet_cli.errors import UnreachableError
from linnet_cli.exits import Exit
from linnet_cli.kube.connect import read_seconds
from linnet_cli.options import add_cluster_options, split_name
from linnet_cli.reading import read_records
from linnet_cli.story import Story, tell
from linnet_cli.world import World

_LOOK_EVERY_S = 1.0
_ENDS = {
    "RolledBack": Exit.TAKEN_BACK,
    "Aborted": Exit.TAKEN_BACK,
    "Abandoned": Exit.TAKEN_BACK,
    "Superseded": Exit.TAKEN_BACK,
    "Refused": Exit.REFUSED,
}


class Outcome(NamedTuple):
    """The end of a wait: the exit code, and the sentence for it."""

    exit: Exit
    sentence: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``wait`` takes."""
    parser.add_argument("deployment", metavar="DEPLOYMENT")
    parser.add_argument(
        "--for",
        dest="goal",
        choices=("completed", "rolledback", "ended"),
        default="completed",
        help="what to wait for (completed)",
    )
    parser.add_argument("--timeout", default="30m", metavar="TIME", help="give up after it (30m)")
    add_cluster_options(parser)


def run(args: argparse.Namespace, world: World) -> int:
    """Wait, and return the exit code of what happened."""
    kube = world.connect(args)
    namespace, name = args.namespace or kube.namespace, split_name(args.deployment)
    timeout_s = read_seconds(args.timeout)
    give_up_at = world.monotonic() + timeout_s
    said, before = "", None
    while True:
        try:
            records = read_records(
                kube, now=world.now(), namespace=namespace, name=name, with_nodes=False
            )
            story = tell(records[0])
            ended = outcome(story, goal=args.goal)
            state = where(story, brief=True)
        except UnreachableError as error:
            ended, state = None, str(error)
        late = world.monotonic() >= give_up_at
        if ended is not None and (ended.exit == Exit.OK or ended == before or late):
            world.show(ended.sentence)
            return ended.exit
        before = ended
        if state != said:
            world.say(state)
            said = state
        if late:
            world.show(f"{name}: not {args.goal} within {args.timeout}; {state}")
            return Exit.TIMEOUT
        world.sleep(_LOOK_EVERY_S)


def outcome(story: Story, *, goal: str) -> Outcome | None:
    """Return how the wait ends, None where it goes on.

    Args:
        story: The deployment now.
        goal: completed, rolledback or ended.
    """
    health = story.health
    if health.word == "New":
        return None
    if story.rollout and story.ended and not _another_comes(story):
        return _ended(story, goal=goal)
    if health.word == "Stalled":
        code = Exit.REFUSED if health.reason == "Refused" else Exit.TAKEN_BACK
        return Outcome(code, f"{story.name}: {health.reason}. {health.message}".rstrip(". "))
    if story.waiting.get("reason") in WAITS_FOR_PERSON or health.paused:
        return Outcome(Exit.WAITS_FOR_PERSON, where(story))
    return None


def where(story: Story, *, brief: bool = False) -> str:
    """Return in a line where the deployment is; brief without what changes at every look."""
    parts = [story.phase or health_word(story)]
    if story.steps and not story.ended and story.rollout:
        parts.append(f"step {story.step}/{len(story.steps)}")
    if story.waiting:
        short = str(story.waiting.get("short", ""))
        waits = short if brief else story.waiting.get("message") or short
        parts.append(f"waits for {story.waiting.get('reason')}: {waits}")
    return f"{story.rollout or story.name}: {', '.join(parts)}"


def health_word(story: Story) -> str:
    """Return health and reason, such as ``Stalled (InvalidSpec)``."""
    return (
        f"{story.health.word} ({story.health.reason})" if story.health.reason else story.health.word
    )


def _another_comes(story: Story) -> bool:
    """Tell whether the ended rollout is no longer the last word: a new candidate is on its way."""
    resolving = story.waiting.get("reason") == "Source"
    if story.health.word == "Reconciling" and (story.phase != "Completed" or resolving):
        return True
    return bool(story.candidate) and story.candidate != story.goes_to


def _ended(story: Story, *, goal: str) -> Outcome:
    message = story.rollout_message or story.health.message
    sentence = f"{story.rollout}: {story.phase}. {message}".rstrip(". ")
    if goal == "ended":
        return Outcome(Exit.OK, sentence)
    if story.phase == "Completed":
        return Outcome(Exit.OK if goal == "completed" else Exit.ERROR, sentence)
    if goal == "rolledback" and story.phase == "RolledBack":
        return Outcome(Exit.OK, sentence)
    return Outcome(_ENDS[story.phase], sentence)
