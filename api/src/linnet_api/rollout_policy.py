"""RolloutPolicy: steps, bake, judge, budget, windows, and what to do when a candidate is bad."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from linnet_api.conditions import Condition
from linnet_api.fields import (
    ATOMIC,
    ApiModel,
    CountOrPercent,
    Duration,
    Percent,
    ShortName,
    map_list,
    rules,
)

Decimal = Annotated[str, Field(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,9})?$", max_length=26)]


class Step(ApiModel):
    """One step of a rollout: how many nodes, and how long they bake."""

    nodes: Annotated[
        CountOrPercent,
        Field(
            description="Quota of the step: a count of nodes, or a percentage of the eligible ones, rounded up. 0 holds here. "
            "Never less than the step before; equal steps merge."
        ),
    ]
    bake: Annotated[
        Duration,
        Field(
            description="How long the step's nodes must have served, connected, before it can end. Default 10m; 0s: only "
            "the evidence decides."
        ),
    ] = "10m"
    approval: Annotated[
        Literal["None", "BeforeStep"],
        Field(
            description="BeforeStep: a person approves before any node of this step is asked. Default None."
        ),
    ] = "None"


class History(ApiModel):
    """The nodes' own past, with which a candidate is compared."""

    window: Annotated[
        Duration,
        Field(
            description="Length of one history window; not longer than the shortest bake. Default 10m."
        ),
    ] = "10m"
    windows: Annotated[
        int,
        Field(
            description="How many windows before the rollout are read, 2 to 96. Default 24.",
            ge=2,
            le=96,
        ),
    ] = 24
    required: Annotated[
        int,
        Field(
            description="How many of them must have data before the rollout may start, 2 to 96. Default 6.",
            ge=2,
            le=96,
        ),
    ] = 6
    on_missing: Annotated[
        Literal["Wait", "Proceed"],
        Field(
            description="Wait (default): stay in Learning until there is enough. Proceed: only thresholds and node checks "
            "judge, and the status says so."
        ),
    ] = "Wait"


class Compare(ApiModel):
    """One comparison with the nodes' own history."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.signal == 'Slow' ? has(self.over) : !has(self.over)",
                "over belongs to the signal Slow, which needs it",
            ),
        )
    )

    name: Annotated[ShortName, Field(description="Name of the comparison, such as errors.")]
    signal: Annotated[
        Literal["Errors", "Slow", "Wrong"],
        Field(
            description="Errors: failed requests of all. Slow: requests slower than 'over' of all. Wrong: labelled answers "
            "that were wrong, of all labelled ones."
        ),
    ]
    over: Annotated[
        Duration | None,
        Field(
            description="For Slow: an edge of a bucket of linnet_inference_duration_seconds, such as 50ms."
        ),
    ] = None


class Threshold(ApiModel):
    """A limit on any PromQL query."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.max) || has(self.min)", "a threshold needs max, min, or both")
        )
    )

    name: Annotated[ShortName, Field(description="Name of the threshold, such as temperature.")]
    query: Annotated[
        str,
        Field(
            description="PromQL that answers with one number. {{namespace}} {{deployment}} {{revision}} {{baseline}} "
            "{{window}} {{nodes}} are filled in; {{nodes}} is a regular expression of up to 1000 node names; with more it is not "
            "asked, and missing: join on linnet_model_info{revision} by node.",
            min_length=1,
            max_length=4096,
        ),
    ]
    max: Annotated[
        Decimal | None, Field(description="A value above it is a failure. Absent: no upper limit.")
    ] = None
    min: Annotated[
        Decimal | None, Field(description="A value below it is a failure. Absent: no lower limit.")
    ] = None
    failure_limit: Annotated[
        int | None,
        Field(
            description="How many failures of one step are tolerated altogether, 0 to 1000; one more takes the candidate back. "
            "A long bake sees more samples, so prefer consecutiveFailureLimit. Absent: no such limit; without either limit "
            "the first failure takes it back.",
            ge=0,
            le=1000,
        ),
    ] = None
    consecutive_failure_limit: Annotated[
        int | None,
        Field(
            description="How many failures in a row are tolerated, 0 to 1000; a good sample starts the count again, a missing "
            "one does not. Absent: no such limit.",
            ge=0,
            le=1000,
        ),
    ] = None
    consecutive_error_limit: Annotated[
        int | None,
        Field(
            description="How many samples in a row may be missing (no series, several, NaN), 0 to 1000; one more, and onNoData "
            "acts at once. They never condemn the candidate by themselves. Absent: onNoData acts after decideWithin.",
            ge=0,
            le=1000,
        ),
    ] = None
    initial_delay: Annotated[
        Duration,
        Field(
            description="Nothing is measured before the step is so old; until then it cannot end. Default 0s."
        ),
    ] = "0s"
    interval: Annotated[
        Duration | None,
        Field(
            description="Time between two samples. Absent: judge.interval. The newest 1000 samples of a step count."
        ),
    ] = None
    dry_run: Annotated[
        bool,
        Field(
            description="true: it is measured and recorded, and says what it would have done, but decides nothing. Default "
            "false."
        ),
    ] = False


class Detect(ApiModel):
    """The harm that must be excluded before a step may end."""

    factor: Annotated[
        int,
        Field(
            description="A rise to this many times the expected rate, 2 to 100. Default 3.",
            ge=2,
            le=100,
        ),
    ] = 3
    floor: Annotated[
        Percent,
        Field(
            description="Or, where that is more, this share of requests on top: near zero errors a ratio alone can never be "
            "decided. Default 1%."
        ),
    ] = "1%"


class Judge(ApiModel):
    """How the candidate is judged."""

    source: Annotated[
        ShortName,
        Field(description="A Prometheus that the operator's settings name. Default 'default'."),
    ] = "default"
    preset: Annotated[
        Literal["Linnet", "Triton"],
        Field(
            description="Whose metrics the comparisons count. Linnet (default): linnet-server. Triton: the Triton Inference "
            "Server (with the runtime Files), model = the serving name, version = the revision's number; it counts Errors only."
        ),
    ] = "Linnet"
    interval: Annotated[
        Duration, Field(description="How often the evidence is looked at. Default 30s.")
    ] = "30s"
    history: Annotated[History, Field(description="The nodes' own past.")] = History()
    compare: Annotated[
        tuple[Compare, ...],
        Field(
            description="Comparisons with the nodes' own history; their evidence is averaged. Default: errors. Empty: none, and "
            "only thresholds and node checks judge.",
            max_length=8,
            json_schema_extra=map_list("name"),
        ),
    ] = (Compare(name="errors", signal="Errors"),)
    thresholds: Annotated[
        tuple[Threshold, ...],
        Field(
            description="Limits on any PromQL. Empty: none.",
            max_length=16,
            json_schema_extra=map_list("name"),
        ),
    ] = ()
    false_rollback: Annotated[
        Percent,
        Field(
            description="The chance to take a good model back, over the whole rollout, 1% to 99%; 0% counts as 1%, 100% as "
            "99%. Default 1%."
        ),
    ] = "1%"
    detect: Annotated[
        Detect, Field(description="The harm that must be excluded before a step may end.")
    ] = Detect()
    decide_within: Annotated[
        Duration | None,
        Field(
            description="After it, onUndecided or onNoData acts. Absent: six times the step's bake, one hour where that is 0s."
        ),
    ] = None
    on_undecided: Annotated[
        Literal["Hold", "Ask", "Advance", "Rollback"],
        Field(
            description="When the evidence has not decided in time: Hold, Ask a person (default), Advance with a note, "
            "or Rollback."
        ),
    ] = "Ask"
    on_no_data: Annotated[
        Literal["Hold", "Ask", "Rollback"],
        Field(
            description="When there is no data in time: Hold (default), Ask, or Rollback. Never an advance."
        ),
    ] = "Hold"
    on_fleet_trouble: Annotated[
        Literal["Hold"],
        Field(
            description="When the whole fleet is in trouble, also the nodes on the old revision: Hold."
        ),
    ] = "Hold"


class Budget(ApiModel):
    """How much may be out of service at once."""

    max_unavailable: Annotated[
        CountOrPercent,
        Field(
            description="Connected nodes whose model is out of service, and silent ones: count or percentage of the eligible. "
            "Default 5%; at least one node."
        ),
    ] = "5%"
    max_downloads: Annotated[
        int,
        Field(
            description="Nodes that are under way at the same time, 1 to 10000: told to change, connected, and not settled; "
            "one that fetches is among them. Going back does not count. Default 10.",
            ge=1,
            le=10_000,
        ),
    ] = 10


class Offline(ApiModel):
    """What lost nodes mean."""

    defer_after: Annotated[
        Duration,
        Field(
            description="A node not seen for so long is deferred: it leaves the count and catches up later. Default 10m."
        ),
    ] = "10m"
    suspect_after: Annotated[
        Duration,
        Field(
            description="A node that took the candidate and was lost for so long is a suspected failure. Default 5m."
        ),
    ] = "5m"


class Window(ApiModel):
    """A time in which steps may begin."""

    cron: Annotated[
        str,
        Field(
            description="When it opens: minute, hour, day, month, weekday.",
            min_length=9,
            max_length=128,
        ),
    ]
    duration: Annotated[Duration, Field(description="How long it stays open.")]
    time_zone: Annotated[
        str, Field(description="IANA time zone of the cron line. Default UTC.", max_length=64)
    ] = "UTC"


class RolloutPolicySpec(ApiModel):
    """How a candidate goes out, and what brings it back."""

    steps: Annotated[
        tuple[Step, ...],
        Field(
            description="The steps in order, 1 to 20.",
            min_length=1,
            max_length=20,
            json_schema_extra=ATOMIC,
        ),
    ]
    spread_by: Annotated[
        tuple[Annotated[str, Field(max_length=317)], ...],
        Field(
            description="Node labels over whose values each step is spread, such as topology.kubernetes.io/zone. Empty: none.",
            max_length=4,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    control: Annotated[
        CountOrPercent,
        Field(
            description="Nodes that stay on the old revision until the last bake has passed: max(2, this) of ten and more "
            "nodes, 1 of three to nine, none below. 0: none. Default 5%."
        ),
    ] = "5%"
    judge: Annotated[Judge, Field(description="How the candidate is judged.")] = Judge()
    budget: Annotated[Budget, Field(description="How much may be out of service at once.")] = (
        Budget()
    )
    offline: Annotated[Offline, Field(description="What lost nodes mean.")] = Offline()
    windows: Annotated[
        tuple[Window, ...],
        Field(
            description="Times in which steps may begin; a rollback never waits for one. Empty: always.",
            max_length=16,
            json_schema_extra=ATOMIC,
        ),
    ] = ()
    progress_deadline: Annotated[
        Duration,
        Field(
            description="A rollout that has not moved for so long is stalled; waiting for a person does not count. Default 7d."
        ),
    ] = "7d"
    on_bad: Annotated[
        Literal["Rollback", "Pause"],
        Field(
            description="When the candidate is judged bad: Rollback (default), or Pause and ask."
        ),
    ] = "Rollback"


class RolloutPolicyStatus(ApiModel):
    """Whether the policy can be used."""

    observed_generation: Annotated[
        int,
        Field(
            description="The generation that this status speaks of; -1: nobody has looked yet.",
            ge=-1,
            le=2**53,
        ),
    ] = -1
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            description="Ready: the policy is accepted.",
            max_length=8,
            json_schema_extra=map_list("type"),
        ),
    ] = ()


BUILT_IN: RolloutPolicySpec = RolloutPolicySpec(
    steps=(
        Step(nodes=1, bake="10m"),
        Step(nodes="10%", bake="30m"),
        Step(nodes="50%", bake="1h"),
        Step(nodes="100%", bake="1h"),
    )
)
"""What a ModelDeployment without policyRef gets."""
