"""What a policy says, in the judge's terms. Pure."""

from linnet_api.durations import parse_duration, parse_percent
from linnet_api.rollout_policy import Compare, RolloutPolicySpec, Threshold
from linnet_operator.judge.assess import StepInputs
from linnet_operator.judge.compare import Detect
from linnet_operator.judge.thresholds import ThresholdSpec
from linnet_operator.presets import Signal


def step_template(policy: RolloutPolicySpec) -> StepInputs:
    """Return the judge's inputs that come from the policy alone."""
    judge = policy.judge
    return StepInputs(
        metrics=(),
        # 100 % would be no line at all.
        alpha=min(0.99, parse_percent(judge.false_rollback) / 100.0 or 0.01),
        steps=len(policy.steps),
        detect=Detect(
            factor=float(judge.detect.factor), floor=parse_percent(judge.detect.floor) / 100.0
        ),
        required_windows=judge.history.required,
        proceed_without_history=judge.history.on_missing == "Proceed",
    )


def signal_of(compare: Compare) -> Signal:
    """Return what a comparison of a policy counts."""
    over = parse_duration(compare.over) if compare.over is not None else None
    return Signal(kind=compare.signal, over=over)


def threshold_spec(threshold: Threshold) -> ThresholdSpec:
    """Return what the judge needs of a policy's threshold."""
    return ThresholdSpec(
        name=threshold.name,
        maximum=threshold.max,
        minimum=threshold.min,
        failure_limit=threshold.failure_limit,
        consecutive_failure_limit=threshold.consecutive_failure_limit,
        consecutive_error_limit=threshold.consecutive_error_limit,
        dry_run=threshold.dry_run,
    )
