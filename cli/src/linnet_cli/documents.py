"""The JSON and YAML form of a story: a contract of its own, ``cli.linnet.dev/v1alpha1``."""

import json
from collections.abc import Sequence
from typing import Any

from linnet_cli.story import Story

API_VERSION = "cli.linnet.dev/v1alpha1"


def to_document(stories: Sequence[Story]) -> dict[str, Any]:
    """Return the stories as one JSON object; absent facts are null or empty, keys never are."""
    return {
        "apiVersion": API_VERSION,
        "kind": "StatusList",
        "items": [_item(story) for story in stories],
    }


def write_document(document: dict[str, Any], form: str) -> str:
    """Return the document as ``json`` or ``yaml`` text."""
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False)
    import yaml  # noqa: PLC0415 - start-up: only for -o yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def _item(story: Story) -> dict[str, Any]:
    return {
        "namespace": story.namespace,
        "name": story.name,
        "source": story.source,
        "health": story.health.word,
        "reason": story.health.reason,
        "message": story.health.message,
        "paused": story.health.paused,
        "stable": _revision(story, story.stable),
        "candidate": _revision(story, story.candidate),
        "waitingFor": story.waiting or None,
        "nodeCounts": story.counts,
        "rollout": _rollout(story) if story.rollout else None,
        "nodes": [
            {
                "name": node.name,
                "state": node.state,
                "reason": node.reason,
                "message": node.message,
                "serves": _revision(story, node.serves),
                "wanted": _revision(story, node.wanted),
                "role": node.role,
                "step": node.step,
                "lostSeconds": node.lost_s,
                "signer": node.signer,
            }
            for node in story.nodes
        ],
    }


def _rollout(story: Story) -> dict[str, Any]:
    return {
        "name": story.rollout,
        "phase": story.phase,
        "ended": story.ended,
        "verdict": story.verdict,
        "reason": story.rollout_reason,
        "message": story.rollout_message,
        "from": _revision(story, story.came_from),
        "to": _revision(story, story.goes_to),
        "step": story.step,
        "startedAt": story.started_at.isoformat() if story.started_at else None,
        "endedAt": story.ended_at.isoformat() if story.ended_at else None,
        "steps": [
            {
                "number": step.number,
                "begun": step.begun,
                "wanted": step.wanted,
                "nodes": step.nodes,
                "quota": step.quota,
                "control": step.control,
                "bakeSeconds": step.bake_s,
                "bakedSeconds": step.baked_s,
                "approval": step.approval,
                "verdict": step.verdict,
                "message": step.message,
            }
            for step in story.steps
        ],
    }


def _revision(story: Story, revision: str) -> dict[str, Any] | None:
    if not revision:
        return None
    number = story.numbers.get(revision)
    return {"revision": revision, "label": story.label(revision), "number": number}
