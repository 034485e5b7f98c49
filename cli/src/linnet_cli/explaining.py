"""The words of ``linnet explain``: why it is where it is, and what would change that.

Pure: a story in, lines out.

Rules:
- Every reason of the contract's closed lists has a meaning here; a test enumerates them.
- The operator's own sentences, which carry the numbers, are never rephrased.
"""

from typing import NamedTuple

from linnet_cli.kube import Json
from linnet_cli.paint import Cell, Paint, wrap
from linnet_cli.story import NodeStory, Story, ago, format_span
from linnet_cli.tree import group_key

_LABEL = 14
_NAMES_SHOWN = 6
_DECISIONS_SHOWN = 5
# A query may name 200 nodes; the whole of it stands in the ConfigMap.
_QUERY_SHOWN = 300


_REPLACE = (
    "Replace: where a node's memory does not hold both revisions, the old one is taken out first "
    "and clients get 503 until the new one is loaded; no more nodes than budget.maxUnavailable "
    "change at a time."
)


class Meaning(NamedTuple):
    """What a reason means, and the command for it; the target stands for ``NAME -n NAMESPACE``."""

    text: str
    command: str = ""


WAITS = {
    "Learning": Meaning(
        "Before the first step, the nodes' own past is read: without it a candidate could be "
        "compared with nothing.",
    ),
    "Activating": Meaning("Nodes of this step still fetch, check or load the candidate."),
    "Baking": Meaning(
        "The step's nodes have to serve for the bake time, connected; lost time does not count.",
    ),
    "Evidence": Meaning(
        "The bake is over, but the evidence neither condemns the candidate nor excludes the harm "
        "that `detect` "
        "names. More requests decide it, or a person does.",
        "promote {target} --reason '...'",
    ),
    "NoData": Meaning(
        "The metrics hold nothing to judge by. No data is never a pass: look for traffic, and "
        "whether "
        "Prometheus scrapes the nodes.",
        "abort {target}",
    ),
    "PartialData": Meaning(
        "Some nodes' numbers are missing or stale, and partial data is never a pass: check those "
        "nodes' scrapes.",
        "abort {target}",
    ),
    "FleetTrouble": Meaning(
        "Nodes on the old revision fail more than usual too, so the candidate cannot be told "
        "from the trouble.",
        "abort {target}",
    ),
    "Approval": Meaning("The policy wants a person's word before this step.", "approve {target}"),
    "Decision": Meaning(
        "The evidence did not decide in time, or rests on one node, and the policy asks a "
        "person: promote goes on, abort takes the candidate back.",
        "promote {target} --reason '...'",
    ),
    "Paused": Meaning("A person has paused it, here or in Git (spec.paused).", "resume {target}"),
    "Window": Meaning("No maintenance window is open; steps begin only inside one."),
    "Budget": Meaning("As many nodes as the budget allows are out of service or fetching already."),
    "HeldAtZero": Meaning(
        "The step's quota is zero, which holds the rollout: raise it in the RolloutPolicy for "
        "the next "
        "rollout, or go on by hand.",
        "promote {target} --reason '...'",
    ),
    "Reverting": Meaning("Nodes go back to the old revision; offline ones will at first contact."),
    "SilentNodes": Meaning(
        "Nodes took the candidate and were lost since. They may have been hurt by it, so nothing "
        "advances "
        "until they are back or the judge has decided.",
        "abort {target}",
    ),
    "DeferredNodes": Meaning(
        "All that is left are nodes that were offline; they catch up "
        "when they return.",
    ),
    "Unloading": Meaning(
        "The deployment is being deleted with removal: Unload; it goes when every node that is "
        "within reach has unloaded.",
    ),
    "NoNodes": Meaning(
        "No node matches the selector, or none of them has a working agent: look at the node "
        "labels and at "
        "`kubectl get modelhosts`.",
    ),
    "Finishing": Meaning(
        "The last bake has passed; the control group follows, "
        "through the same budget.",
    ),
    "Source": Meaning(
        "The source does not resolve to a digest: the registry does not answer, or there is no "
        "such tag.",
    ),
    "MetricsSource": Meaning(
        "Prometheus does not answer. Nothing advances blind; what serves goes on serving.",
    ),
}  # fmt: skip

ENDS = {
    "Completed": Meaning("The candidate is the stable revision now."),
    "RolledBack": Meaning(
        "The candidate was judged bad and taken back. It is not tried again until the spec "
        "changes or a person "
        "says retry; going back in Git makes the deployment Ready again.",
        "retry {target} --reason '...'",
    ),
    "Refused": Meaning(
        "The nodes' own trust refused the candidate; they serve what they served. Sign it with a "
        "trusted key "
        "under the right name, or correct the TrustPolicy, then retry.",
        "retry {target} --reason '...'",
    ),
    "Superseded": Meaning("A newer spec took its place."),
    "Aborted": Meaning("A person took it back.", "retry {target} --reason '...'"),
    "Abandoned": Meaning(
        "It could not go on; nodes that took the candidate went back.",
        "retry {target} --reason '...'",
    ),
}

STALLS = {
    "Accepted": Meaning("It was accepted."),
    "Serving": Meaning("Every eligible node serves the wanted revision."),
    "Progressing": Meaning("A rollout is on its way."),
    "Waiting": Meaning("The rollout waits."),
    "Paused": Meaning("A person has stopped it.", "resume {target}"),
    "RolledBack": ENDS["RolledBack"],
    "Refused": ENDS["Refused"],
    "Aborted": ENDS["Aborted"],
    "InvalidSpec": Meaning("The spec cannot be used as it stands: correct it and apply it again."),
    "PolicyNotFound": Meaning(
        "The RolloutPolicy of policyRef does not exist in this "
        "namespace: apply it, or drop policyRef.",
    ),
    "SourceNotResolved": WAITS["Source"],
    "Condemned": Meaning(
        "This very artifact was taken back before, so it is not tried again by itself.",
        "retry {target} --reason '...'",
    ),
    "NoNodes": WAITS["NoNodes"],
    "ServingNameTaken": Meaning(
        "Another deployment serves under this name on the same nodes, and who serves keeps it: "
        "choose another "
        "serving.name in a new ModelDeployment. One that was deleted with removal: Keep serves on "
        "as an orphan (status of ModelHost): apply it again with removal: Unload and delete it "
        "once it is Ready.",
    ),
}  # fmt: skip

SIGNALS = {
    "Errors": "failed requests of all (linnet_inference_requests_total)",
    "Slow": "requests slower than {over} (linnet_inference_duration_seconds)",
    "Wrong": "wrong answers of all labelled ones (linnet_inference_feedback_total)",
}


def explain(
    story: Story, *, rollout: Json | None, record: Json, paint: Paint, width: int, prog: str
) -> list[str]:
    """Return the explanation: revision, step, wait, evidence, nodes, what comes next, what to do.

    Args:
        story: What to explain.
        rollout: The raw ModelRollout, for its policy and decisions.
        record: The evidence of the newest decision that rests on metrics; empty: none.
        paint: What the terminal can show.
        width: Columns.
        prog: How people call the CLI.
    """
    rows: list[tuple[str, str]] = [("", _first_sentence(story)), ("revision", _revision(story))]
    if story.rollout and not story.ended:
        rows.append(("step", _step(story)))
        if story.replaces:
            rows.append(("swap", _REPLACE))
    rows += [("waits for" if story.waiting else "why", text) for text in _why(story)]
    rows += [("evidence", text) for text in _evidence(story, rollout or {})]
    rows += [("evidence", text) for text in _record(record)]
    if story.newest:
        rows += [("nodes", text) for text in _nodes(story)]
        rows.append(("next change", _next_change(story)))
        rows += [("what to do", text) for text in _commands(story, prog)]
    return _layout([(label, paint.clean(text)) for label, text in rows if text], paint, width)


def _first_sentence(story: Story) -> str:
    where = f"{story.namespace}/{story.name}"
    goal = story.label(story.goes_to) if story.goes_to else story.source
    if story.health.word == "New":
        return f"{where}: {story.health.message}"
    if not story.rollout:
        return f"{where} has no rollout yet: {story.health.reason}"
    if story.ended:
        ended = ago(story.ended_at, now=story.now)
        return f"{where}: the rollout of {goal} is {story.phase}{f', {ended}' if ended else ''}"
    return f"{where} is on its way to {goal}: {story.phase}, {story.rollout}"


def _revision(story: Story) -> str:
    def named(revision: str) -> str:
        return f"{story.label(revision)} ({revision}, number {story.numbers.get(revision, 0)})"

    if not story.goes_to:
        return (
            f"stable {named(story.stable)}" if story.stable else f"none yet; wanted {story.source}"
        )
    start = f", from {named(story.came_from)}" if story.came_from else ", the first one"
    return f"{named(story.goes_to)}{start}"


def _step(story: Story) -> str:
    if not 1 <= story.step <= len(story.steps):
        return f"before the first of {len(story.steps)}"
    step = story.steps[story.step - 1]
    parts = [
        f"{story.step} of {len(story.steps)}: {step.nodes} of {step.quota} nodes hold the candidate"
    ]
    if step.control:
        parts.append(f"{step.control} held back as control")
    parts.append(f"baked {format_span(step.baked_s)} of {format_span(step.bake_s)}")
    if step.started_at:
        parts.append(f"began {ago(step.started_at, now=story.now)}")
    return ", ".join(parts)


def _why(story: Story) -> list[str]:
    if story.waiting:
        reason = str(story.waiting.get("reason", ""))
        meaning = WAITS.get(reason, Meaning("")).text
        return [
            f"{reason}: {story.waiting.get('message') or story.waiting.get('short', '')}",
            meaning,
        ]
    texts = [story.rollout_message] if story.ended else []
    stalled = story.newest and story.health.word == "Stalled"
    if story.newest and story.health.message not in texts:
        texts.append(story.health.message)
    known = STALLS.get(story.health.reason) if stalled else ENDS.get(story.phase)
    return [*texts, known.text if known else ""]


def _evidence(story: Story, rollout: Json) -> list[str]:
    if not story.rollout:
        return []
    texts = [
        f"step {step.number}: {step.verdict}{f'; {step.message}' if step.message else ''}"
        for step in story.steps
        if step.begun and step.verdict
    ]
    judge = ((rollout.get("spec") or {}).get("policy") or {}).get("judge") or {}
    compares = () if story.ended else judge.get("compare") or ()
    for compare in compares if story.came_from else ():
        signal = SIGNALS.get(str(compare.get("signal")), "").format(over=compare.get("over", ""))
        texts.append(f"compares {compare.get('name')}: {signal}")
    if compares and story.came_from:
        texts.append(_terms(judge))
    elif compares:
        texts.append(
            "nothing to compare with: it is the first rollout, so the nodes' own reports judge it"
        )
    for threshold in () if story.ended else judge.get("thresholds") or ():
        limits = [f"{word} {threshold[word]}" for word in ("min", "max") if threshold.get(word)]
        texts.append(
            f"threshold {threshold.get('name')}{' (dry run)' if threshold.get('dryRun') else ''}: "
            f"{' and '.join(limits)} of {threshold.get('query')}"
        )
    said = {step.message for step in story.steps}
    decisions = (rollout.get("status") or {}).get("decisions") or ()
    texts += [_decision(decision, said) for decision in decisions[-_DECISIONS_SHOWN:]]
    return texts


def _terms(judge: Json) -> str:
    history, detect = judge.get("history") or {}, judge.get("detect") or {}
    past = f"{history.get('windows', 24)} windows of {history.get('window', '10m')}"
    factor, floor = detect.get("factor", 3), detect.get("floor", "1%")
    harm = f"a rise to {factor} x expected or by {floor} of requests"
    return (
        f"window: since the step began, against each node's own past ({past}); it advances when "
        f"{harm} is "
        f"excluded, and takes a good model back with a chance of {judge.get('falseRollback', '1%')}"
    )


def _record(record: Json) -> list[str]:
    """Return what the newest decision rests on: counts, what was expected, and the queries."""
    texts = []
    for metric in (record.get("assessment") or {}).get("metrics") or ():
        look = metric.get("look") or {}
        if look.get("verdict") in (None, "NotMeasured", "NoData", "Learning"):
            continue
        excluded = look.get("excluded")
        harm = f"a rise to x{excluded:g} excluded" if excluded else "no rise excluded yet"
        counts = f"{look.get('failures', 0):g} of {look.get('requests', 0):g}"
        weight = f"{look.get('log_e', 0):.1f}, taken back at {look.get('line', 0):.1f} (logarithms)"
        texts.append(
            f"it rests on {metric.get('name')}: {counts}, expected {look.get('expected', 0):.1f}; "
            f"{harm}; evidence of harm {weight}"
        )
    queries = (record.get("about") or {}).get("queries")
    asked = queries.items() if isinstance(queries, dict) else enumerate(queries or (), start=1)
    return texts + [f"query {name}: {str(query)[:_QUERY_SHOWN]}" for name, query in asked]


def _decision(decision: Json, said: set[str]) -> str:
    kept = (decision.get("evidence") or {}).get("name")
    record = f" (ConfigMap {kept})" if kept else ""
    message = str(decision.get("message", "")).rstrip(".")
    why = f"; {message}" if message and decision.get("message") not in said else ""
    return (
        f"decision {decision.get('n')}, step {decision.get('step')}: {decision.get('verdict')}, "
        f"{decision.get('action')}{why}{record}"
    )


def _nodes(story: Story) -> list[str]:
    groups: dict[tuple[object, ...], list[NodeStory]] = {}
    for node in story.nodes:
        groups.setdefault(group_key(node), []).append(node)
    texts = []
    for group in groups.values():
        first = group[0]
        words = [f"{len(group)} {first.state}"]
        words.append(f"on {story.label(first.serves)}" if first.serves else "serving nothing yet")
        if first.wanted and first.wanted != first.serves:
            words.append(f"told {story.label(first.wanted)}")
        if first.reason:
            words.append(first.reason)
        if first.lost_s is not None:
            words.append(f"not heard of for {format_span(first.lost_s)}")
        names = ", ".join(node.name for node in group[:_NAMES_SHOWN])
        more = f" and {len(group) - _NAMES_SHOWN} more" if len(group) > _NAMES_SHOWN else ""
        said = f"; {first.message}" if first.message and first.rank <= 1 else ""
        texts.append(f"{', '.join(words)}: {names}{more}{said}")
    asked = max(0, story.counts.get("matched", 0) - len(story.nodes))
    if asked:
        texts.append(f"{asked} not asked yet")
    if story.counts.get("deferred"):
        texts.append(
            f"{story.counts['deferred']} deferred: offline when it was their turn; they catch up "
            "by themselves"
        )
    return texts or ["none match the selector yet"]


def _next_change(story: Story) -> str:
    until = story.waiting.get("until")
    if until:
        from linnet_cli.reading import parse_time  # noqa: PLC0415 - the module is loaded already

        then = parse_time(until)
        if then is not None:
            left_s = (then - story.now).total_seconds()
            clock = then.strftime("%H:%M:%S UTC")
            return (
                f"at {clock} at the earliest, in {format_span(left_s)}"
                if left_s > 0
                else "any moment now"
            )
    if story.waiting.get("reason") in ("Approval", "Decision", "Paused", "HeldAtZero"):
        return "only when a person acts"
    if story.waiting:
        return "as soon as what it waits for is there"
    if story.ended or not story.rollout:
        return (
            "when the spec changes, or a person acts"
            if story.health.word == "Stalled"
            else "when the spec changes"
        )
    return "any moment now"


def _commands(story: Story, prog: str) -> list[str]:
    target = f"{story.name} -n {story.namespace}"
    reason = str(story.waiting.get("reason", ""))
    known = WAITS.get(reason) if story.waiting else STALLS.get(story.health.reason)
    if known is None or (not story.waiting and story.health.word != "Stalled"):
        known = Meaning("")
    if story.git_paused and reason == "Paused":
        return ["take `paused: true` out of the ModelDeployment's spec: Git's brake beats the CLI"]
    texts = [f"{prog} {known.command.format(target=target)}"] if known.command else []
    if story.rollout and not story.ended:
        abort = f"{prog} abort {target}"
        texts += [f"{abort}   (takes the candidate back)"] if abort not in texts else []
        texts.append(f"{prog} status {target} --watch   (follows it)")
    return texts or ["nothing"]


def _layout(rows: list[tuple[str, str]], paint: Paint, width: int) -> list[str]:
    lines: list[str] = []
    before = ""
    for label, text in rows:
        if not label:
            lines += [*(paint.text(Cell(part, "strong")) for part in wrap(text, width=width)), ""]
            continue
        shown = label if label != before else ""
        before = label
        for part in wrap(text, width=width - _LABEL):
            lines.append(f"{paint.text(Cell(shown.ljust(_LABEL), 'dim'))}{part}".rstrip())
            shown = ""
    return lines
