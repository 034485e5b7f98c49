"""Presets: which metrics of a server count, and which mean something else under another model.

Rules:
- A comparison counts requests: (bad, all) of each node and revision, and nothing that a model says
  about itself.
- What a server does not count is refused with the reason, when the policy is written.
- A threshold that sets the candidate against the baseline is refused where its metric changes its
  meaning with the model: own confidence, times that hang on the size of inputs and batches.
- Triton's ``version`` is the revision's number; what is no revision of ours is a stranger.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

REQUESTS: Final = "linnet_inference_requests_total"
FEEDBACK: Final = "linnet_inference_feedback_total"
DURATION_BUCKETS: Final = "linnet_inference_duration_seconds_bucket"
_TRITON_SUCCESS: Final = "nv_inference_request_success"
_TRITON_FAILURE: Final = "nv_inference_request_failure"

_BOTH: Final = ("{{revision}}", "{{baseline}}")
_MODEL_SAYS: Final = (
    r"\w*(?:confidence|softmax|logit|entropy)\w*",
    "each model scales what it says about itself by itself",
)
_TIMES: Final = (
    "it hangs on the size of inputs and batches, which a new model may change without any harm; "
    "set a limit for the candidate alone"
)
_CHANGES_MEANING: Final = {
    "Linnet": (_MODEL_SAYS, (r"linnet_inference_duration_seconds(?:_sum|_count|_bucket)?", _TIMES)),
    "Triton": (
        _MODEL_SAYS,
        (r"nv_inference_\w*(?:duration_us|summary_us)\w*", _TIMES),
        (r"nv_inference_(?:exec_)?count", "it counts items and batches, not requests"),
    ),
}
_NOT_COUNTED: Final = {
    ("Triton", "Slow"): (
        "Triton adds up the time of all requests, and does not count those over a line; set a "
        "threshold on a quantile of your clients or of its summaries"
    ),
    ("Triton", "Wrong"): "Triton counts no feedback; send labels to linnet-server, or set a "
    "threshold on a counter of your own",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What is compared: Errors, Wrong, or Slow (then ``over`` is an edge of a bucket)."""

    kind: str
    over: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose requests are counted, and under which labels.

    Attributes:
        namespace: Of the deployment.
        deployment: Its name.
        preset: Whose metrics: Linnet or Triton.
        model: The serving name, which is Triton's ``model``.
        versions: Triton's ``version`` -> revision.
    """

    namespace: str
    deployment: str
    preset: str = "Linnet"
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    def revision_of(self, labels: Mapping[str, str]) -> str:
        """Return the revision of a series; one that is not ours keeps its own name."""
        if self.preset == "Linnet":
            return labels.get("revision", "")
        version = labels.get("version", "")
        return self.versions.get(version, f"version {version}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CountQuery:
    """A query, the label of its parts, and the value of the bad part."""

    text: str
    part: str
    bad: str


def count_query(signal: Signal, subject: Subject, *, edge: str = "") -> CountQuery:
    """Return the one query of a signal; ``edge`` is a bucket, as the source writes it."""
    assert (subject.preset, signal.kind) not in _NOT_COUNTED, (subject.preset, signal)
    if subject.preset == "Triton":
        parts = (
            _labelled(_TRITON_SUCCESS, _model(subject), outcome="success"),
            # What was rejected or called off is the client's or the queue's fault.
            _labelled(
                _TRITON_FAILURE,
                f'{_model(subject)},reason!~"REJECTED|CANCELED"',
                outcome="failure",
            ),
        )
        text = f"sum by (node, version, outcome) ({' or '.join(parts)})"
        return CountQuery(text=text, part="outcome", bad="failure")
    if signal.kind == "Errors":
        matcher = f'{_linnet(subject)},outcome=~"success|failure"'
        text = f"sum by (node, revision, outcome) ({REQUESTS}{{{matcher}}})"
        return CountQuery(text=text, part="outcome", bad="failure")
    if signal.kind == "Wrong":
        matcher = f'{_linnet(subject)},verdict=~"correct|wrong"'
        text = f"sum by (node, revision, verdict) ({FEEDBACK}{{{matcher}}})"
        return CountQuery(text=text, part="verdict", bad="wrong")
    assert signal.kind == "Slow", signal
    wanted = f"{re.escape(edge)}|\\+Inf"
    matcher = f'{_answered(subject)},le=~"{quoted(wanted)}"'
    text = f"sum by (node, revision, le) ({DURATION_BUCKETS}{{{matcher}}})"
    return CountQuery(text=text, part="le", bad=edge)


def edges_query(subject: Subject) -> str:
    """Return the query for the edges of the buckets that there are."""
    return f"group by (le) ({DURATION_BUCKETS}{{{_answered(subject)}}})"


def scrape_metric(subject: Subject) -> str:
    """Return the selector of the series whose newest samples tell when nodes were scraped."""
    if subject.preset == "Triton":
        return f"{_TRITON_SUCCESS}{{{_model(subject)}}}"
    return f"{REQUESTS}{{{_linnet(subject)}}}"


def exported_metric(subject: Subject) -> str:
    """Return the selector of what a scraper renames that gives a target the label `namespace`."""
    return f"{REQUESTS}{{exported_{_linnet(subject)}}}"


def not_counted(preset: str, signal: str) -> str:
    """Return why a preset does not count a signal; empty where it does."""
    return _NOT_COUNTED.get((preset, signal), "")


def changes_meaning(preset: str, query: str) -> str:
    """Return why a threshold's query compares what cannot be compared; empty where it does not."""
    if not all(word in query for word in _BOTH):
        return ""
    for pattern, why in _CHANGES_MEANING[preset]:
        found = re.search(rf"(?i)\b{pattern}\b", query)
        if found is not None:
            return f"{found[0]} means something else under another model: {why}"
    return ""


def quoted(value: str) -> str:
    """Return a label's value as it stands between double quotes in PromQL."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _linnet(subject: Subject) -> str:
    return f'namespace="{quoted(subject.namespace)}",deployment="{quoted(subject.deployment)}"'


def _answered(subject: Subject) -> str:
    return f'{_linnet(subject)},outcome=~"success|failure"'


def _model(subject: Subject) -> str:
    return f'model="{quoted(subject.model)}"'


def _labelled(metric: str, matcher: str, *, outcome: str) -> str:
    return f'label_replace({metric}{{{matcher}}}, "outcome", "{outcome}", "", "")'
