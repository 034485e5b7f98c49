"""The record of a deciding look: one immutable ConfigMap, enough to compute the verdict again.

Rules:
- The record is canonical JSON (sorted keys, no spaces, the shortest form of each number), so the
  same look always gives the same bytes; its sha256 is that of the JSON, not of its compression.
- It holds all inputs of the judge, and what the judge said; ``recompute`` needs nothing else.
- What is no number is written as null, and is judged as no measurement either way.
- At most 700 kB compressed; a record that would be larger is refused, never cut.
"""

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from linnet_operator.judge.assess import (
    MetricInputs,
    StepAssessment,
    StepInputs,
    ThresholdInputs,
    assess,
)
from linnet_operator.judge.compare import Detect, NodeCount
from linnet_operator.judge.learned import Learned, OwnHistory
from linnet_operator.judge.thresholds import ThresholdSample, ThresholdSpec

FORMAT = "linnet.dev/evidence/v1"
DATA_KEY = "evidence.json.gz"
SHA256_ANNOTATION = "linnet.dev/evidence-sha256"
LARGEST_COMPRESSED_BYTES = 700_000
_LARGEST_BYTES = 64 * 1024 * 1024


class EvidenceRecordError(Exception):
    """A record cannot be written or read: it is too large, damaged, or of an unknown format."""

    reason = "InvalidEvidence"
    remedy = "Fetch the ConfigMap again; if it is damaged, the decision cannot be verified."


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRecord:
    """The bytes of a record and their sha256, in hexadecimal digits."""

    canonical: bytes
    compressed: bytes
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What a record says, and what its inputs give when they are judged again.

    Attributes:
        about: What the record is about: rollout, step, times, queries.
        inputs: The judge's inputs.
        recorded: What the judge said then, as JSON.
        recomputed: What it says now, as JSON.
        differences: The fields of the assessment that differ; empty when it is verified.
        sha256: Of the canonical JSON that was read.
    """

    about: Mapping[str, Any]
    inputs: StepInputs
    recorded: Mapping[str, Any]
    recomputed: Mapping[str, Any]
    differences: tuple[str, ...]
    sha256: str


def make_record(
    inputs: StepInputs, assessment: StepAssessment, *, about: Mapping[str, Any]
) -> EvidenceRecord:
    """Return the record of one look.

    Args:
        inputs: What the judge was given.
        assessment: What it said.
        about: Facts for people, as JSON: namespace, deployment, rollout, step, times, queries.

    Raises:
        EvidenceRecordError: It would be larger than a ConfigMap may be.
    """
    canonical = canonical_json(
        {
            "format": FORMAT,
            "about": dict(about),
            "inputs": _inputs_to_json(inputs),
            "assessment": assessment_to_json(assessment),
        }
    )
    compressed = _compress(canonical)
    if len(compressed) > LARGEST_COMPRESSED_BYTES:
        raise EvidenceRecordError(
            f"the evidence has {len(compressed)} bytes compressed, more than "
            f"{LARGEST_COMPRESSED_BYTES}; compare fewer metrics or split the deployment"
        )
    return EvidenceRecord(
        canonical=canonical, compressed=compressed, sha256=hashlib.sha256(canonical).hexdigest()
    )


def config_map(
    record: EvidenceRecord,
    *,
    name: str,
    namespace: str,
    labels: Mapping[str, str],
    owner_references: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the body of the immutable ConfigMap that keeps a record."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels),
            "annotations": {SHA256_ANNOTATION: record.sha256},
            "ownerReferences": [dict(reference) for reference in owner_references],
        },
        "immutable": True,
        "binaryData": {DATA_KEY: base64.b64encode(record.compressed).decode("ascii")},
    }


def read_config_map(body: Mapping[str, Any]) -> bytes:
    """Return the compressed record of a ConfigMap.

    Raises:
        EvidenceRecordError: It holds none.
    """
    data = (body.get("binaryData") or {}).get(DATA_KEY)
    if not isinstance(data, str):
        raise EvidenceRecordError(f"the ConfigMap has no binaryData {DATA_KEY!r}")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise EvidenceRecordError("the ConfigMap's data is no base64") from error


def recompute(evidence: bytes) -> Recomputed:
    """Judge a record again, from nothing but itself.

    Args:
        evidence: The record, compressed or not.

    Raises:
        EvidenceRecordError: It is damaged, or of a format that this version does not know.
    """
    canonical = _decompress(evidence)
    try:
        record = _of_this_format(json.loads(canonical))
        inputs = _inputs_from_json(record["inputs"])
        recorded = record["assessment"]
        about = dict(record["about"])
        again = json.loads(canonical_json(assessment_to_json(assess(inputs))))
        differences = tuple(_differences(recorded, again, path="assessment"))
    except EvidenceRecordError:
        raise
    except Exception as error:
        # Whatever the judge makes of numbers that no judge has written.
        raise EvidenceRecordError(f"the record is damaged: {error!r}") from error
    return Recomputed(
        about=about,
        inputs=inputs,
        recorded=recorded,
        recomputed=again,
        differences=differences,
        sha256=hashlib.sha256(canonical).hexdigest(),
    )


def _of_this_format(record: Any) -> Any:  # noqa: ANN401 - JSON, not yet checked
    if record["format"] != FORMAT:
        raise EvidenceRecordError(f"format {record['format']!r} is not known; want {FORMAT}")
    return record


def canonical_json(value: object) -> bytes:
    """Return the one way to write a value: keys sorted, no spaces, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def assessment_to_json(assessment: StepAssessment) -> dict[str, Any]:
    """Return an assessment as plain JSON values."""
    return asdict(assessment)


def learned_to_json(learned: Learned) -> dict[str, Any]:
    """Return the frozen parameters as plain JSON values, the nodes as columns."""
    scalars = {each.name: getattr(learned, each.name) for each in fields(Learned)}
    scalars["nodes"] = {
        "node": [node.node for node in learned.nodes],
        "failures": [node.failures for node in learned.nodes],
        "requests": [node.requests for node in learned.nodes],
        "windows": [node.windows for node in learned.nodes],
    }
    return scalars


def learned_from_json(value: Mapping[str, Any]) -> Learned:
    """Return the frozen parameters that ``learned_to_json`` wrote."""
    columns = value["nodes"]
    rows = zip(
        columns["node"], columns["failures"], columns["requests"], columns["windows"], strict=True
    )
    nodes = tuple(
        OwnHistory(node=node, failures=failures, requests=requests, windows=windows)
        for node, failures, requests, windows in rows
    )
    return Learned(**{**value, "nodes": nodes})


def _inputs_to_json(inputs: StepInputs) -> dict[str, Any]:
    return {
        "metrics": [
            {
                "name": metric.name,
                "signal": metric.signal,
                "learned": None if metric.learned is None else learned_to_json(metric.learned),
                "candidates": _counts_to_json(metric.candidates),
                "stable": _counts_to_json(metric.stable),
                "noData": metric.no_data,
                "partial": metric.partial,
            }
            for metric in inputs.metrics
        ],
        "thresholds": [
            {
                "spec": asdict(threshold.spec),
                "samples": [
                    {**asdict(sample), "value": _number_or_null(sample.value)}
                    for sample in threshold.samples
                ],
            }
            for threshold in inputs.thresholds
        ],
        "alpha": inputs.alpha,
        "steps": inputs.steps,
        "detect": asdict(inputs.detect),
        "requiredWindows": inputs.required_windows,
        "proceedWithoutHistory": inputs.proceed_without_history,
    }


def _inputs_from_json(value: Mapping[str, Any]) -> StepInputs:
    return StepInputs(
        metrics=tuple(
            MetricInputs(
                name=metric["name"],
                signal=metric["signal"],
                learned=None if metric["learned"] is None else learned_from_json(metric["learned"]),
                candidates=_counts_from_json(metric["candidates"]),
                stable=_counts_from_json(metric["stable"]),
                no_data=metric["noData"],
                partial=metric["partial"],
            )
            for metric in value["metrics"]
        ),
        thresholds=tuple(
            ThresholdInputs(
                spec=ThresholdSpec(**threshold["spec"]),
                samples=tuple(ThresholdSample(**sample) for sample in threshold["samples"]),
            )
            for threshold in value["thresholds"]
        ),
        alpha=value["alpha"],
        steps=value["steps"],
        detect=Detect(**value["detect"]),
        required_windows=value["requiredWindows"],
        proceed_without_history=value["proceedWithoutHistory"],
    )


def _counts_to_json(rows: Sequence[NodeCount]) -> dict[str, list[Any]]:
    return {
        "node": [row.node for row in rows],
        "failures": [_number_or_null(row.failures) for row in rows],
        "requests": [_number_or_null(row.requests) for row in rows],
        "seconds": [_number_or_null(row.seconds) for row in rows],
        "domain": [row.domain for row in rows],
    }


def _counts_from_json(value: Mapping[str, Any]) -> tuple[NodeCount, ...]:
    names = ("node", "failures", "requests", "seconds", "domain")
    columns = zip(*(value[name] for name in names), strict=True)
    return tuple(
        NodeCount(node=node, failures=failures, requests=requests, seconds=seconds, domain=domain)
        for node, failures, requests, seconds, domain in columns
    )


def _number_or_null(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _compress(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=6, mtime=0)


def _decompress(evidence: bytes) -> bytes:
    if evidence[:2] != b"\x1f\x8b":
        return evidence
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(evidence)) as stream:
            data = stream.read(_LARGEST_BYTES + 1)
    except (OSError, EOFError) as error:
        raise EvidenceRecordError("the record is damaged: it does not decompress") from error
    if len(data) > _LARGEST_BYTES:
        raise EvidenceRecordError("the record is larger than any that is written")
    return data


def _differences(recorded: object, again: object, *, path: str) -> list[str]:
    """Return the paths at which two JSON values differ."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        found = []
        for key in sorted(recorded.keys() | again.keys()):
            found += _differences(recorded.get(key), again.get(key), path=f"{path}.{key}")
        return found
    if isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        found = []
        for index, (left, right) in enumerate(zip(recorded, again, strict=True)):
            found += _differences(left, right, path=f"{path}[{index}]")
        return found
    return [] if recorded == again else [path]
