"""What must hold of every tree that a power cut may leave; what the agent's own boot makes of it.

- Rule 2: ``current`` names a complete, verified model, or none was ever active.
- Rule 3: the baseline is complete.
- Nothing under a final name is torn: each file and directory is one that the agent has seen there.
- What the agent went on from (an acknowledged step) is not undone.
- The journal does not run ahead: what it calls known is complete, what it calls active is current.
- The agent's own start finds nothing corrupt, and a legal next step.
"""

import asyncio
import contextlib
import functools
import os
import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path

from crashlab.disk import live_trees
from crashlab.log import Ack
from crashlab.node import KEY

from linnet_agent.activate import Worker
from linnet_agent.app import Agent
from linnet_agent.journal import Goal, Step, from_json
from linnet_agent.settings import Settings
from linnet_agent.store import ServingRecord
from linnet_agent.table import next_action
from linnet_api.reasons import NodeState

MODEL = f"models/{KEY.namespace}/{KEY.deployment}"
JOURNAL, CURRENT = f"{MODEL}/journal.json", f"{MODEL}/current"
_UNITS = (
    ("store", 2),
    (f"{MODEL}/revisions", 5),
)
_GROWING = ("staging", "run", "results")
"""Files that are appended to: what is torn there is known by what is in it."""
_DURABLE_ACKS = ("after.", "swap.", "clear.", "revision.renamed")
_NOW = datetime(2026, 11, 21, tzinfo=UTC)


def units(tree):
    """Return what is seen as a whole: models, revisions, and each file that is replaced in one."""
    found = {}
    for path, content in tree.items():
        parts = path.split("/")
        if parts[0] in _GROWING or any(
            part.startswith((".linnet-tmp-", ".trash-")) for part in parts
        ):
            continue
        for prefix, depth in _UNITS:
            if path.startswith(prefix + "/"):
                found.setdefault("/".join(parts[:depth]), []).append((path, content))
                break
        else:
            if content != "d":
                found[path] = content
    return {
        path: frozenset(whole) if isinstance(whole, list) else whole
        for path, whole in found.items()
    }


class Expected:
    """What may be seen after each step of a recording."""

    def __init__(self, log):
        live = [units(tree) for tree in live_trees(log)]
        self.seen = []
        """Of each count of steps: unit to what it may be (None: absent)."""
        allowed = {path: {whole} for path, whole in live[0].items()}
        paths = {path for tree in live for path in tree}
        for number, tree in enumerate(live):
            step = log.steps[number - 1] if number else None
            if isinstance(step, Ack) and step.name.startswith(_DURABLE_ACKS):
                allowed = {path: {tree.get(path)} for path in paths}
            else:
                allowed = {path: allowed.get(path, {None}) | {tree.get(path)} for path in paths}
            self.seen.append(allowed)


def violations(tree, seen, recording):
    """Return what is wrong with a tree, in sentences; nothing is started."""
    found = units(tree)
    wrong = [
        f"{path} is {_say(found.get(path))}, which it never was or is no more"
        for path in sorted({*found, *seen})
        if found.get(path) not in seen.get(path, {None})
    ]
    current = _current(tree)
    if current is not None and not _is_complete(found, tree, current):
        wrong.append(f"rule 2: current names {current}, which is not complete")
    if recording.baseline is not None and not _is_complete(found, tree, recording.baseline):
        wrong.append(f"rule 3: the baseline {recording.baseline} is not complete")
    return wrong + _journal_ahead(found, tree, current, recording.may_go)


def _journal_ahead(found, tree, current, may_go):
    try:
        journal = from_json(tree.get(JOURNAL, b"{}"))
    except ValueError as error:
        return [f"the journal cannot be read: {error}"]
    wrong = [
        f"the journal knows {revision}, which is not complete"
        for revision in journal.known
        if revision not in may_go and not _is_complete(found, tree, revision)
    ]
    active = journal.state in (NodeState.ACTIVE, NodeState.SOAKING) and journal.revert is None
    if active and journal.order.goal is Goal.ACTIVE and current != journal.order.revision:
        wrong.append(f"the journal calls {journal.order.revision} active, current is {current}")
    if journal.state is NodeState.ABSENT and current is not None:
        wrong.append(f"the journal says Absent, current is {current}")
    return wrong


def _current(tree):
    target = tree.get(CURRENT)
    return None if target is None else target.removeprefix("lrevisions/")


def _complete(tree):
    found, prefix = units(tree), f"{MODEL}/revisions/"
    names = {path.removeprefix(prefix) for path in found if path.startswith(prefix)}
    return {name for name in names if _is_complete(found, tree, name)}


def _is_complete(found, tree, revision):
    path = f"{MODEL}/revisions/{revision}"
    try:
        record = ServingRecord.model_validate_json(tree[f"{path}/serving.json"])
    except (KeyError, ValueError):
        return False
    model = f"store/{record.model_digest.removeprefix('sha256:')}"
    return model in found and tree.get(f"{path}/model") == f"l../../../../../{model}"


def _say(whole):
    if whole is None:
        return "absent"
    if isinstance(whole, frozenset):
        return f"a directory of {len(whole)}"
    return whole if isinstance(whole, str) else f"{len(whole)} bytes {whole[:40]!r}"


# --- the agent's own start ------------------------------------------------------------------------


_CONTEXT = functools.cache(ssl.create_default_context)


@contextlib.contextmanager
def _roots_read_once():
    """Share TLS contexts: an Agent makes three HTTP clients, and each reads all roots anew."""
    usual = ssl.create_default_context
    ssl.create_default_context = _CONTEXT
    try:
        yield
    finally:
        ssl.create_default_context = usual


class Boot:
    """Lets the agent's own start work on one tree after the other, in this process."""

    def __init__(self, home):
        self.root = Path(home) / "root"
        self._settings = Settings(
            root=self.root,
            node="edge-1",
            api_server="http://127.0.0.1:9",
            token_file=None,
            ca_file=None,
            ceiling=self.root / "none",
        )

    def check(self, tree, *, leaves=None):
        """Return what is wrong with how the agent starts on ``tree``.

        Args:
            tree: What it finds.
            leaves: The revision that it may leave.
        """
        materialise(tree, self.root)
        try:
            with _roots_read_once():
                return asyncio.run(self._start(_complete(tree) - {leaves}, leaves))
        except Exception as error:  # noqa: BLE001 - whatever it is, the agent did not start
            return [f"the agent's start failed: {error!r}"]

    async def _start(self, complete, leaves):
        agent = Agent(self._settings, clock=lambda: _NOW, jitter=lambda: 0.5)
        agent._store.prepare()
        agent._trust.load()
        agent._desired.load()
        worker = Worker(KEY, agent._parts, agent._reporter)
        await worker._boot()
        await worker._take_order()
        facts = await worker._gather()
        wrong = [
            f"the agent does not see that {revision} is complete"
            for revision in sorted(complete - facts.complete)
        ]
        action = next_action(worker.journal, facts)
        if action.step in (Step.GIVE_UP, Step.REVERT) and action.revision != leaves:
            wrong.append(f"the agent gives up: {action.message}")
        return wrong


def materialise(tree, root):
    """Write ``tree`` to ``root``; what was there goes."""
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        place = f"{root}/{path}"
        if content == "d":
            os.mkdir(place, 0o755)  # noqa: PTH102 - ten thousand times forty
        elif isinstance(content, str):
            os.symlink(content[1:], place)  # noqa: PTH211
        else:
            mode = 0o444 if path.startswith(("store/", "staging/")) else 0o644
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            os.write(descriptor, content)
            os.close(descriptor)
