"""The operator's own metrics; names are a promise (DESIGN, section 4).

``charts/linnet/monitoring`` holds alerts on them; ``series`` begins and ends those of a deployment.
"""

from typing import Final

import prometheus_client

REGISTRY: Final = prometheus_client.CollectorRegistry()

WRITES: Final = prometheus_client.Counter(
    "linnet_operator_writes",
    "Writes to the API server, by kind and verb. Does not move while the fleet is settled.",
    ("kind", "verb"),
    registry=REGISTRY,
)
PLAN_SECONDS: Final = prometheus_client.Histogram(
    "linnet_operator_plan_seconds",
    "Seconds of one pass of the planner over one ModelDeployment.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    registry=REGISTRY,
)
TURNS: Final = prometheus_client.Counter(
    "linnet_operator_turns",
    "Turns of the loop, by outcome: Settled, Wrote, Waiting, Conflict, Error.",
    ("outcome",),
    registry=REGISTRY,
)
KUBE_RETRIES: Final = prometheus_client.Counter(
    "linnet_operator_kube_retries",
    "Requests to the API server that were tried again, by HTTP status (0: no answer).",
    ("status",),
    registry=REGISTRY,
)
LOOP_LAG: Final = prometheus_client.Gauge(
    "linnet_operator_loop_lag_seconds",
    "How late the event loop woke a timer, the largest of the last ten seconds.",
    registry=REGISTRY,
)
CACHE_OBJECTS: Final = prometheus_client.Gauge(
    "linnet_operator_cache_objects",
    "Objects in the cache, by kind.",
    ("kind",),
    registry=REGISTRY,
)
LOOKS: Final = prometheus_client.Counter(
    "linnet_operator_looks",
    "Looks at the evidence, by verdict.",
    ("verdict",),
    registry=REGISTRY,
)
PLACEBO: Final = prometheus_client.Counter(
    "linnet_judge_placebo",
    "Groups of stable nodes that were judged as if they had changed, one a step and group, by what "
    "they would have been: Judged (all), TakenBack. Their ratio is the judge's own error rate.",
    ("namespace", "deployment", "outcome"),
    registry=REGISTRY,
)
PLACEBO_ALLOWED: Final = prometheus_client.Counter(
    "linnet_judge_placebo_allowed",
    "How many of those groups falseRollback allows to be taken back: its sum over all groups.",
    ("namespace", "deployment"),
    registry=REGISTRY,
)
PLACEBO_ALARM: Final = prometheus_client.Gauge(
    "linnet_judge_placebo_alarm",
    "1 where more placebo groups would have been taken back, since the operator started, than "
    "falseRollback can explain: do not trust the judge on this fleet, look at its history and its "
    "metrics.",
    ("namespace", "deployment"),
    registry=REGISTRY,
)
ROLLOUT_STEP: Final = prometheus_client.Gauge(
    "linnet_rollout_step",
    "The step that a running rollout is at, from 1.",
    ("namespace", "deployment"),
    registry=REGISTRY,
)
ROLLOUT_WAITING: Final = prometheus_client.Gauge(
    "linnet_rollout_waiting",
    "1 for what a deployment waits for now (status.waitingFor.reason); no series: for nothing.",
    ("namespace", "deployment", "reason"),
    registry=REGISTRY,
)
ROLLOUT_NODES: Final = prometheus_client.Gauge(
    "linnet_rollout_nodes",
    "Nodes of a deployment, by where they are (onCandidate, eligible, deferred, silent, refused).",
    ("namespace", "deployment", "where"),
    registry=REGISTRY,
)
ROLLOUTS_ENDED: Final = prometheus_client.Counter(
    "linnet_rollout_ended",
    "Rollouts that ended, by phase.",
    ("namespace", "deployment", "phase"),
    registry=REGISTRY,
)
