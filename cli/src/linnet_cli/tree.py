"""The tree that ``linnet status`` prints: deployment, rollout, steps, nodes.

Pure: a story in, lines out.

Rules:
- The first line alone says where it is and what it waits for.
- Nodes alike are folded where the list would be long; who is in trouble is folded last.
"""

from collections.abc import Sequence

from linnet_cli.paint import Cell, Paint, columns, wrap
from linnet_cli.story import (
    NodeStory,
    StepStory,
    Story,
    ago,
    format_span,
    served_counts,
)

# As many nodes as fit a screen beside the rest; the demo's ten are always shown whole.
FOLD_FROM = 20
_SHOWN_OF_A_GROUP = 3
_SHOWN_OF_TROUBLE = 10
# A longer message stands below its step, not behind it.
_INLINE = 60

_HEALTH = {
    "Ready": "good",
    "Stalled": "bad",
    "Reconciling": "busy",
    "New": "ask",
    "Unknown": "ask",
}
_VERDICTS = {"Pass": "good", "Fail": "bad", "": "plan", "NotMeasured": "plan"}
_PHASES = {
    "Completed": "good",
    "RolledBack": "bad",
    "RollingBack": "bad",
    "Refused": "bad",
    "Aborted": "bad",
    "Abandoned": "bad",
    "Superseded": "plan",
    "Waiting": "wait",
}
_STATES = {
    "Active": "good",
    "Failed": "bad",
    "Reverted": "bad",
    "Refused": "bad",
    "Staged": "plan",
    "Absent": "plan",
}


def draw(
    story: Story, *, paint: Paint, width: int, all_nodes: bool, nodes: bool = True
) -> list[str]:
    """Return the lines of one deployment.

    Args:
        story: What to tell.
        paint: What the terminal can show.
        width: Columns for sentences; trees and rows are never cut.
        all_nodes: True lists every node, however many there are.
        nodes: False leaves the list of nodes out and keeps the line that counts them.
    """
    lines = [head(story, paint=paint)]
    if story.health.message and (story.health.word in ("Stalled", "New") or story.health.paused):
        trunk = paint.trunk(last=False)
        lines += [f"{trunk}{part}" for part in wrap(paint.clean(story.health.message), width=width)]
    if story.rollout:
        lines += _rollout(story, paint=paint, width=width)
    lines += _nodes(story, paint=paint, all_nodes=all_nodes, listed=nodes)
    return lines


def head(story: Story, *, paint: Paint) -> str:
    """Return the line that says it all: name, health, way, step, what it waits for."""
    health = story.health
    word = health.word
    if word in ("Stalled", "Unknown") and health.reason:
        word = f"{word} ({health.reason})"
    kind = "wait" if health.paused else _HEALTH[health.word]
    parts: list[Cell | str] = [
        Cell(story.name, "strong"),
        story.namespace,
        paint.mark(kind, word),
        _way(story),
    ]
    if story.steps and not story.ended and story.rollout:
        parts.append(f"step {story.step}/{len(story.steps)}")
    if story.waiting:
        short = paint.clean(f"{story.waiting.get('reason', '')} {story.waiting.get('short', '')}")
        parts.append(Cell(f"waiting: {_once(short)}", "busy"))
    return "   ".join(paint.text(part) for part in parts if part)


def _once(short: str) -> str:
    """Return the words with a doubled first one said once: the short form may repeat the reason."""
    words = short.split()
    if len(words) > 1 and words[0].lower() == words[1].lower():
        del words[1]
    return " ".join(words)


def _way(story: Story) -> str:
    def named(revision: str) -> str:
        return f"{story.label(revision)} ({revision[:6]})"

    if story.rollout and not story.ended and story.goes_to:
        start = named(story.came_from) if story.came_from else "nothing"
        return f"{start} -> {named(story.goes_to)}"
    return f"on {named(story.stable)}" if story.stable else ""


def _rollout(story: Story, *, paint: Paint, width: int) -> list[str]:
    begin, below = paint.branch(last=False), paint.trunk(last=False)
    row: list[Cell | str] = [f"rollout {story.rollout}"]
    start = f"{story.label(story.came_from)} {story.came_from}" if story.came_from else "nothing"
    row.append(f"{start} -> {story.label(story.goes_to)} {story.goes_to}")
    row.append(paint.mark(_PHASES.get(story.phase, "busy"), story.phase))
    if story.verdict and story.verdict != "NotMeasured":
        row.append(f"verdict {story.verdict}")
    if story.ended_at:
        row.append(f"ended {ago(story.ended_at, now=story.now)}")
    elif story.started_at:
        row.append(f"began {ago(story.started_at, now=story.now)}")
    lines = [begin + "   ".join(paint.text(cell) for cell in row)]
    sentence = story.rollout_message if story.ended else str(story.waiting.get("message", ""))
    if sentence and sentence != story.health.message:
        lines += [
            f"{below}{paint.trunk(last=False)}{part}"
            for part in wrap(paint.clean(sentence), width=width)
        ]
    shown = [s for s in story.steps if s.begun or not story.ended]
    rows = columns([_step(s, story, paint) for s in shown], paint=paint)
    for index, (step, line) in enumerate(zip(shown, rows, strict=True)):
        last = index == len(rows) - 1
        lines.append(f"{below}{paint.branch(last=last)}{line}")
        trunk = f"{below}{paint.trunk(last=last)}   "
        lines += [f"{trunk}{part}" for part in _said(step, story, paint=paint, width=width - 6)]
    return lines


def _said(step: StepStory, story: Story, *, paint: Paint, width: int) -> list[str]:
    """Return the lines below a step: the whole message where things happen, else its start."""
    if len(step.message) <= _INLINE or not step.begun:
        return []
    message = paint.clean(step.message)
    if step.number == story.step and not story.ended:
        return wrap(message, width=width)
    return [message if len(message) <= width else f"{message[: width - 3].rstrip()}..."]


def _step(step: StepStory, story: Story, paint: Paint) -> list[Cell | str]:
    if not step.begun and step.number <= story.step:
        return [
            f"step {step.number}",
            "",
            paint.mark("plan", "merged"),
            "",
            "as large as its neighbour",
        ]
    if not step.begun:
        approval = "after approval" if step.approval else ""
        wanted = f"{step.wanted} of nodes" if "%" in step.wanted else f"{step.wanted} nodes"
        planned = paint.mark("plan", "planned")
        bake = f"bake {format_span(step.bake_s)}"
        return [f"step {step.number}", wanted, planned, bake, approval]
    kind = _VERDICTS.get(step.verdict, "ask")
    bake = f"baked {format_span(step.baked_s)} of {format_span(step.bake_s)}"
    parts = [f"{step.control} as control"] if step.control and step.number == story.step else []
    parts += [paint.clean(step.message)] if len(step.message) <= _INLINE else []
    verdict = paint.mark(kind, step.verdict or "NotMeasured")
    counts = f"{step.nodes}/{step.quota} nodes"
    return [f"step {step.number}", counts, verdict, bake, "; ".join(p for p in parts if p)]


def _nodes(story: Story, *, paint: Paint, all_nodes: bool, listed: bool) -> list[str]:
    lines = [paint.branch(last=True) + nodes_line(story)]
    if not listed:
        return lines
    below = paint.trunk(last=True)
    rows = fold(story.nodes, all_nodes=all_nodes)
    shown = columns([_row(row, story, paint) for row in rows], paint=paint)
    for index, line in enumerate(shown):
        lines.append(f"{below}{paint.branch(last=index == len(shown) - 1)}{line}")
    return lines


def nodes_line(story: Story) -> str:
    """Return the counts of nodes in a line, such as ``nodes 10: 3 on 2.0, 7 on 1.1``."""
    matched = max(story.counts.get("matched", 0), len(story.nodes))
    if not matched:
        return "nodes: none match the selector yet"
    parts = [
        f"{count} on {story.label(revision)}" if revision else f"{count} serving nothing yet"
        for revision, count in served_counts(story)
    ]
    if matched > len(story.nodes):
        parts.append(f"{matched - len(story.nodes)} not asked yet")
    parts += [
        f"{story.counts[name]} {name}"
        for name in ("deferred", "silent", "refused", "incompatible")
        if story.counts.get(name)
    ]
    return f"nodes {matched}: {', '.join(parts)}"


def fold(nodes: Sequence[NodeStory], *, all_nodes: bool) -> list[NodeStory | str]:
    """Return the nodes to list, and sentences that stand for those that are folded away."""
    if all_nodes or len(nodes) <= FOLD_FROM:
        return list(nodes)
    groups: dict[tuple[object, ...], list[NodeStory]] = {}
    for node in nodes:
        groups.setdefault(group_key(node), []).append(node)
    rows: list[NodeStory | str] = []
    for group in groups.values():
        limit = _SHOWN_OF_TROUBLE if group[0].rank <= 1 else _SHOWN_OF_A_GROUP
        # A line that says "one more" is as long as the one more.
        if len(group) <= limit + 1:
            rows += group
            continue
        rows += group[:limit]
        rows.append(
            f"and {len(group) - limit} more like it ({group[limit].name} to {group[-1].name})"
        )
    return rows


def group_key(node: NodeStory) -> tuple[object, ...]:
    """Return what makes nodes alike: state, what they serve, why, and whether they can be heard."""
    return (node.rank, node.state, node.serves, node.wanted, node.reason, node.lost_s is not None)


def _row(node: NodeStory | str, story: Story, paint: Paint) -> list[Cell | str]:
    if isinstance(node, str):
        return [
            Cell(f"... {node}; --all-nodes lists them" if not paint.unicode else f"… {node}", "dim")
        ]
    state = paint.mark(_STATES.get(node.state, "busy"), f"{node.state}{_after(node.progress)}")
    serves = f"{story.label(node.serves)} {node.serves[:6]}" if node.serves else "-"
    notes = []
    if node.lost_s is not None:
        notes.append(f"not heard of for {format_span(node.lost_s)}")
    if node.wanted and node.wanted != node.serves:
        notes.append(f"told {story.label(node.wanted)}")
    if node.reason:
        notes.append(node.reason)
    if node.message and (node.rank <= 2 or node.state == "Staged"):
        notes.append(paint.clean(node.message))
    role = node.role if node.role in ("candidate", "stable") and not story.ended else ""
    return [node.name, state, serves, role, "  ".join(notes)]


def _after(progress: str) -> str:
    return f" {progress}" if progress else ""
