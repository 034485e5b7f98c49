"""What was expected and what was seen: the table at the end, and the same as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ActResult:
    """One row: an act, what it expected, what was seen, whether that agrees, how long it took."""

    name: str
    expected: str
    seen: str
    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Requests:
    """What the clients counted; the models' own failures (act 4) stand apart."""

    total: int
    failed: int
    failed_by_model: int
    failures: tuple[str, ...] = ()


def write_report(path: Path, acts: Sequence[ActResult], requests: Requests) -> None:
    """Write the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "acts": [asdict(act) for act in acts],
        "requests": {
            "total": requests.total,
            "failed": requests.failed,
            "failedByModel": requests.failed_by_model,
        },
    }
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def render_table(
    acts: Sequence[ActResult], requests: Requests, *, policy: Mapping[str, str]
) -> str:
    """Return the table as text, 100 columns wide at most."""
    lines = ["", "=" * 96]
    for number, act in enumerate(acts, start=1):
        mark = "ok  " if act.ok else "FAIL"
        lines.append(f"{mark} {number}. {act.name}  ({act.seconds:.0f} s)")
        lines += _wrapped("expected", act.expected)
        lines += _wrapped("seen", act.seen)
    lines.append("-" * 96)
    lines.append(
        f"requests {requests.total}, failed {requests.failed}"
        f" (apart from these, {requests.failed_by_model} that digits 2.1 itself failed on)"
    )
    lines += [f"     {failure}" for failure in requests.failures[:5]]
    lines.append("figures of the demo's policy, made for minutes and not for production:")
    lines.append("     " + ", ".join(f"{key} {value}" for key, value in policy.items()))
    lines.append("=" * 96)
    return "\n".join(lines)


def _wrapped(word: str, text: str) -> list[str]:
    head, width = f"       {word:<9}", 80
    rows: list[str] = []
    row = ""
    for piece in text.split():
        if row and len(row) + 1 + len(piece) > width:
            rows.append(row)
            row = piece
        else:
            row = f"{row} {piece}".strip()
    rows.append(row)
    return [(head if n == 0 else " " * len(head)) + r for n, r in enumerate(rows)]
