"""What ``linnet verify`` says: every step of a verdict, and which of them failed.

- A step has passed, failed, was not reached, or does not apply.
- The last line is the verdict in one sentence; JSON has the same facts.
"""

import json
from typing import Literal, NamedTuple

Outcome = Literal["Passed", "Failed", "NotReached", "NotApplicable"]

_SIGNS: dict[Outcome, str] = {"Passed": "ok", "Failed": "FAILED", "NotReached": "not reached"}
_WIDTH = 12


class Step(NamedTuple):
    """One step of a verdict."""

    name: str
    outcome: Outcome
    says: str = ""


class Report(NamedTuple):
    """A verdict with how it came about.

    Attributes:
        reason: A word of the node's closed list; empty where allowed.
        message: What is wrong, or on what the verdict rests.
        steps: In the order in which they were taken; the first that failed is the reason.
        facts: Names and digests; None where not known.
    """

    reason: str
    message: str
    steps: tuple[Step, ...]
    facts: dict[str, str | int | None]

    @property
    def allowed(self) -> bool:
        """Return true where nothing failed."""
        return not self.reason


def walk(
    steps: list[tuple[str, str]], *, failed: str, because: str, optional: tuple[str, ...] = ()
) -> tuple[Step, ...]:
    """Return steps (name, what it says where it passed) up to the one that failed and behind it.

    Args:
        steps: In the order in which they are taken.
        failed: Name of the one that failed; empty where none did.
        because: What that one says.
        optional: Names of steps that do not apply here.
    """
    taken: list[Step] = []
    reached = True
    for name, says in steps:
        if name == failed:
            taken.append(Step(name, "Failed", because))
            reached = False
        elif name in optional:
            taken.append(Step(name, "NotApplicable", says))
        else:
            taken.append(Step(name, "Passed", says) if reached else Step(name, "NotReached"))
    return tuple(taken)


def render(report: Report, *, output: str) -> str:
    """Return what is printed: JSON, or lines of text."""
    return _as_json(report) if output == "json" else _as_text(report)


def _as_json(report: Report) -> str:
    document = {
        "allowed": report.allowed,
        "reason": report.reason,
        "message": report.message,
        "failingStep": next((s.name for s in report.steps if s.outcome == "Failed"), None),
        **report.facts,
        "steps": [step._asdict() for step in report.steps],
    }
    return json.dumps(document, indent=2)


def _as_text(report: Report) -> str:
    width = max(_WIDTH, *(len(step.name) for step in report.steps))
    lines = [
        f"{step.name:<{width}} {_SIGNS.get(step.outcome, '-'):<12}{step.says}".rstrip()
        for step in report.steps
    ]
    facts = report.facts
    if report.allowed:
        counter = facts.get("counter")
        counted = "no release counter" if counter is None else f"counter {counter}"
        lines.append(f"allowed: {facts.get('model')}, {counted}, signed by {facts.get('signer')}")
        lines += [
            f"{word} digest {facts[key]}"
            for word, key in (("model", "modelDigest"), ("artifact", "artifactDigest"))
            if facts.get(key)
        ]
    else:
        step = next((s.name for s in report.steps if s.outcome == "Failed"), "the verdict")
        lines.append(f"refused ({report.reason}) at step {step}: {report.message}")
    return "\n".join(lines)
