"""The story of one deployment: what people want to know, computed from the raw objects.

Pure: no cluster, no clock, no terminal. Status, explain, wait and the JSON output all rest on it.

Rules:
- An object that nobody has looked at since it changed is "New", whatever its conditions say.
- A node counts where it serves, not where it was told to go.
- Who is in trouble comes first.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from linnet_cli.contract import ENDED_PHASES, MOVING_STATES, TROUBLED_STATES
from linnet_cli.kube import Json
from linnet_cli.reading import Records, parse_time

_DIGITS = re.compile(r"(\d+)")


class Health(NamedTuple):
    """What the conditions say.

    Attributes:
        word: Ready, Reconciling, Stalled, New or Unknown.
        reason: The reason of Ready.
        message: Its sentence.
        paused: True where the Paused condition holds.
    """

    word: str
    reason: str
    message: str
    paused: bool


class StepStory(NamedTuple):
    """One step: wanted, or begun."""

    number: int
    begun: bool
    wanted: str
    bake_s: int
    approval: bool
    nodes: int = 0
    quota: int = 0
    control: int = 0
    baked_s: int = 0
    verdict: str = ""
    message: str = ""
    started_at: datetime | None = None


class NodeStory(NamedTuple):
    """One node of the deployment.

    Attributes:
        name: The Node's name.
        state: The agent's state; Told where the newest order was not taken up yet.
        serves: The revision that it serves; empty: none.
        wanted: The revision that it was told to serve; empty: none.
        reason: The agent's reason, where it says more than the state.
        message: The agent's sentence.
        role: candidate, stable, other or none: what it serves, seen from the rollout.
        step: The step that asked it, 0 where no rollout did.
        lost_s: Seconds since its last heartbeat; None where it is connected or not known.
        progress: Share of the bytes fetched, such as ``42%``; empty: not fetching.
        signer: Who signed the newest order's model; empty: not known.
    """

    name: str
    state: str
    serves: str
    wanted: str
    reason: str
    message: str
    role: str
    step: int
    lost_s: int | None
    progress: str
    signer: str

    @property
    def rank(self) -> int:
        """Where it stands in a list: trouble first, then what moves, then what is settled."""
        if self.state in TROUBLED_STATES:
            return 0
        if self.lost_s is not None:
            return 1
        if self.state in MOVING_STATES or self.state == "Told":
            return 2
        return 3 if self.role == "candidate" else 4


class Story(NamedTuple):
    """Everything about one deployment.

    Attributes:
        newest: False where the rollout is an older one: then the deployment's own words are not
            about it.
    """

    newest: bool
    namespace: str
    name: str
    source: str
    git_paused: bool
    replaces: bool
    health: Health
    rollout: str
    phase: str
    verdict: str
    step: int
    steps: tuple[StepStory, ...]
    stable: str
    came_from: str
    candidate: str
    goes_to: str
    waiting: Json
    rollout_reason: str
    rollout_message: str
    started_at: datetime | None
    ended_at: datetime | None
    nodes: tuple[NodeStory, ...]
    counts: dict[str, int]
    labels: dict[str, str]
    numbers: dict[str, int]
    now: datetime

    @property
    def ended(self) -> bool:
        """True where the newest rollout has ended."""
        return self.phase in ENDED_PHASES

    def label(self, revision: str) -> str:
        """Return what people call ``revision``."""
        return self.labels.get(revision) or revision[:6]


def tell(records: Records) -> Story:
    """Return the story of one deployment."""
    deployment, rollout = records.deployment, records.rollout or {}
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    spec, state = rollout.get("spec") or {}, rollout.get("status") or {}
    came_from = str((spec.get("from") or {}).get("revision", ""))
    goes_to = str((spec.get("to") or {}).get("revision", ""))
    waiting = state.get("waitingFor") if state.get("phase") not in ENDED_PHASES else None
    roles = {came_from: "stable", goes_to: "candidate"}
    nodes = [_node(raw, records, roles) for raw in records.nodes]
    newest = not rollout or status.get("rollout") in (None, rollout["metadata"]["name"])
    return Story(
        newest=newest,
        namespace=str(metadata["namespace"]),
        name=str(metadata["name"]),
        source=str(deployment.get("spec", {}).get("source", "")),
        git_paused=bool(deployment.get("spec", {}).get("paused")),
        replaces=deployment.get("spec", {}).get("swap") == "Replace",
        health=health_of(deployment),
        rollout=str(rollout["metadata"]["name"]) if rollout else "",
        phase=str(state.get("phase") or ("New" if rollout else "")),
        verdict=str(state.get("verdict") or ""),
        step=int(state.get("step") or 0),
        steps=_steps(spec, state, records.now),
        stable=str((status.get("stable") or {}).get("revision", "")),
        came_from=came_from,
        candidate=str((status.get("candidate") or {}).get("revision", "")),
        goes_to=goes_to,
        waiting=(status.get("waitingFor") if newest else None) or waiting or {},
        rollout_reason=str(state.get("reason") or ""),
        rollout_message=str(state.get("message") or ""),
        started_at=parse_time(state.get("startedAt")),
        ended_at=parse_time(state.get("endedAt")),
        nodes=tuple(sorted(nodes, key=lambda n: (n.rank, natural(n.name)))),
        counts={str(k): int(v) for k, v in (status.get("nodes") or {}).items()},
        labels=records.labels,
        numbers=_numbers(status, spec),
        now=records.now,
    )


def health_of(deployment: Json) -> Health:
    """Return what the conditions of a ModelDeployment (or any of the six kinds) say."""
    status = deployment.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    ready = conditions.get("Ready") or {}
    reason, message = str(ready.get("reason", "")), str(ready.get("message", ""))
    paused = _holds(conditions, "Paused")
    generation = int(deployment["metadata"].get("generation", 0))
    if int(status.get("observedGeneration", -1)) < generation:
        sentence = "the operator has not looked at the newest spec yet; is it running?"
        return Health("New", "NotObserved", sentence, paused)
    for word in ("Stalled", "Reconciling", "Ready"):
        if _holds(conditions, word):
            return Health(word, reason, message, paused)
    return Health("Unknown", reason, message, paused)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which edge-2 comes before edge-10."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in _DIGITS.split(name) if p]


def served_counts(story: Story) -> list[tuple[str, int]]:
    """Return (revision, nodes that serve it), the candidate first, then the rest by size.

    The empty revision stands for nodes that serve nothing.
    """
    counts: dict[str, int] = {}
    for node in story.nodes:
        counts[node.serves] = counts.get(node.serves, 0) + 1
    first = story.goes_to or story.stable
    return sorted(counts.items(), key=lambda c: (c[0] != first, c[0] == "", -c[1], c[0]))


def format_span(seconds: float) -> str:
    """Return a span in the shortest form people read, at most two units: ``1h30m``, ``45s``."""
    left, words = max(0, int(seconds)), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count}{unit}")
    return "".join(words[:2]) or "0s"


def ago(then: datetime | None, *, now: datetime) -> str:
    """Return ``3m ago``; empty where there is no such time."""
    return f"{format_span((now - then).total_seconds())} ago" if then else ""


def parse_span(text: str) -> int:
    """Return the whole seconds of a duration as the API spells it, such as ``1h30m``."""
    total, number = timedelta(), ""
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    for part in _DIGITS.split(text.replace("ms", "x")):
        if part.isdigit():
            number = part
        elif number and part in units:
            total += timedelta(**{units[part]: int(number)})
    return int(total.total_seconds())


def _holds(conditions: Json, kind: str) -> bool:
    return bool((conditions.get(kind) or {}).get("status") == "True")


def _steps(spec: Json, state: Json, now: datetime) -> tuple[StepStory, ...]:
    planned = (spec.get("policy") or {}).get("steps") or ()
    begun = state.get("steps") or ()
    found: list[StepStory] = []
    for index, plan in enumerate(planned):
        story = StepStory(
            number=index + 1,
            begun=index < len(begun) and bool(begun[index].get("startedAt")),
            wanted=str(plan.get("nodes", "")),
            bake_s=parse_span(str(plan.get("bake", "10m"))),
            approval=plan.get("approval") == "BeforeStep",
        )
        if index < len(begun):
            seen = begun[index]
            story = story._replace(
                nodes=int(seen.get("nodes", 0)),
                quota=int(seen.get("quota", 0)),
                control=int(seen.get("control", 0)),
                baked_s=_baked_s(seen, now),
                verdict=str(seen.get("verdict", "")),
                message=str(seen.get("message", "")),
                started_at=parse_time(seen.get("startedAt")),
            )
        found.append(story)
    return tuple(found)


def _baked_s(step: Json, now: datetime) -> int:
    """Return the seconds of bake that are done: those recorded, and those since the clock runs."""
    since = parse_time(step.get("bakingSince"))
    running_s = (now - since).total_seconds() if since else 0.0
    return int(step.get("bakedSeconds", 0)) + max(0, int(running_s))


def _node(raw: Json, records: Records, roles: dict[str, str]) -> NodeStory:
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    name = str((spec.get("node") or {}).get("name", raw["metadata"]["name"]))
    desired = spec.get("desired") or {}
    current = status.get("current") or {}
    serves = str(current.get("revision", ""))
    taken_up = int(status.get("observedSequence") or 0) >= int(spec.get("sequence") or 0)
    state = str(status.get("state") or "Told") if taken_up else "Told"
    reason = str(status.get("reason") or "")
    return NodeStory(
        name=name,
        state=state,
        serves=serves,
        wanted=str(desired.get("revision") or ""),
        reason="" if reason in (state, "Working") or not taken_up else reason,
        message=str(status.get("message") or "") if taken_up else "",
        role=roles.get(serves, "other") if serves else "none",
        step=int((spec.get("rollout") or {}).get("step") or 0),
        lost_s=_lost_s(name, records),
        progress=_progress(status) if state == "Fetching" else "",
        signer=str((status.get("verification") or {}).get("signer") or ""),
    )


def _lost_s(node: str, records: Records) -> int | None:
    if records.heartbeats is None:
        return None
    beat = records.heartbeats.get(node)
    if beat is None:
        return None
    silent_s = (records.now - beat[0]).total_seconds()
    # One second of slack: the server's clock in an HTTP date has no fractions.
    return int(silent_s) if silent_s > beat[1] + 1 else None


def _progress(status: Json) -> str:
    total, done = status.get("totalBytes"), status.get("progressBytes")
    return f"{100 * int(done) // int(total)}%" if total and done is not None else ""


def _numbers(status: Json, spec: Json) -> dict[str, int]:
    entries: Iterable[Json | None] = (
        status.get("stable"), status.get("candidate"), spec.get("from"), spec.get("to"),
    )  # fmt: skip
    return {str(e["revision"]): int(e.get("number", 0)) for e in entries if e}
