"""Policies: what a schema cannot say is said in the status, and a deployment waits."""

from datetime import UTC, datetime

import pytest

from linnet_api.rollout_policy import BUILT_IN, RolloutPolicySpec
from linnet_api.trust_policy import TrustPolicySpec
from linnet_operator.cache import FleetCache
from linnet_operator.kube import ROLLOUT_POLICIES, TRUST_POLICIES
from linnet_operator.policies import policy_status, trust_status
from linnet_operator.policy_rules import policy_problems, trust_problems

NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
PEM = "-----BEGIN PUBLIC KEY-----\n" + "A" * 64
RELEASE = {"name": "release", "key": {"publicKeyPEM": PEM}}
KEYLESS = {"name": "ci", "keyless": {"issuer": "https://i", "identity": "me"}}
STEPS = [{"nodes": 1, "bake": "10m"}, {"nodes": "100%", "bake": "1h"}]


LIMIT = {"name": "t", "query": "x", "max": "1"}


def policy(**spec):
    return RolloutPolicySpec.model_validate({"steps": STEPS, **spec})


def threshold(*, preset="Linnet", **fields):
    return {"judge": {"preset": preset, "thresholds": [{**LIMIT, **fields}]}}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param({"judge": {"history": {"window": "11m"}}}, "shortest bake", id="long window"),
        pytest.param({"judge": {"history": {"window": "0s"}}}, "longer than 0s", id="no window"),
        pytest.param(
            {"judge": {"history": {"windows": 4, "required": 5}}}, "only 4 windows", id="too few"
        ),
        pytest.param({"judge": {"interval": "0s"}}, "interval", id="no interval"),
        pytest.param(
            {"judge": {"compare": [{"name": "slow", "signal": "Slow", "over": "60ms"}]}},
            "no edge of a bucket; there are 1ms",
            id="over between two edges",
        ),
        pytest.param(
            {"judge": {"thresholds": [{"name": "t", "query": "x", "min": "2", "max": "1"}]}},
            "above max",
            id="crossed limits",
        ),
        pytest.param(threshold(query="x{r='{{rev}}'}"), "{{rev}} is no word", id="unknown word"),
        pytest.param(threshold(query="sum(x"), "never closed", id="no PromQL"),
        pytest.param(threshold(interval="0s"), "longer than 0s", id="no pause between samples"),
        pytest.param(
            threshold(query="avg(own_confidence{r='{{revision}}'}) - avg(c{r='{{baseline}}'})"),
            "own_confidence means something else under another model: each model scales",
            id="what a model says about itself, compared",
        ),
        pytest.param(
            threshold(
                query="rate(nv_inference_queue_duration_us{version='{{revision}}'}[{{window}}]) / "
                "rate(nv_inference_queue_duration_us{version='{{baseline}}'}[{{window}}])",
                preset="Triton",
            ),
            "nv_inference_queue_duration_us means something else under another model: it hangs on",
            id="a time that hangs on the input, compared",
        ),
        pytest.param(
            {"judge": {"preset": "Triton", "compare": [{"name": "w", "signal": "Wrong"}]}},
            "spec.judge.compare w: Triton counts no feedback",
            id="a signal that the preset does not count",
        ),
        pytest.param({"windows": [{"cron": "0 2 * * x", "duration": "1h"}]}, "cron", id="bad cron"),
        pytest.param(
            {"windows": [{"cron": "0 2 * * *", "duration": "1h", "timeZone": "Mars/Olympus"}]},
            "time zone",
            id="bad zone",
        ),
    ],
)
def test_a_policy_that_cannot_be_used_says_why(spec, says):
    problems = policy_problems(policy(**spec))

    assert len(problems) == 1
    assert says in problems[0]


def test_the_built_in_policy_can_be_used():
    assert policy_problems(BUILT_IN) == []


@pytest.mark.parametrize(
    "spec",
    [
        threshold(query="avg(own_confidence{revision='{{revision}}'})"),
        threshold(query="sum(rate(x{r='{{revision}}'}[{{window}}])) - sum(y{r='{{baseline}}'})"),
        {"judge": {"preset": "Triton"}},
    ],
    ids=["a limit for the candidate alone", "what both count alike", "errors of Triton"],
)
def test_what_keeps_its_meaning_is_not_refused(spec):
    assert policy_problems(policy(**spec)) == []


def test_a_bake_of_nothing_does_not_count_as_the_shortest():
    assert policy_problems(policy(steps=[{"nodes": 1, "bake": "0s"}, *STEPS])) == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param({"require": {"threshold": 2}}, "only 1 authorities", id="more than there are"),
        pytest.param({"require": {"of": ["nobody"]}}, "nobody", id="unknown authority"),
        pytest.param(
            {"authorities": [{"name": "a", "keyless": {"issuer": "https://i"}}]},
            "identity",
            id="keyless without identity",
        ),
        pytest.param(
            {
                "authorities": [
                    {"name": "a", "keyless": {"issuer": "https://i", "identityRegexp": r"(a)\1"}}
                ]
            },
            "unknown escape",
            id="a regular expression that is not known here",
        ),
        pytest.param(
            {
                "authorities": [
                    {
                        "name": "a",
                        "key": {
                            "publicKeyPEM": PEM,
                            "validFor": {
                                "start": "2026-01-02T00:00:00Z",
                                "end": "2026-01-01T00:00:00Z",
                            },
                        },
                    }
                ]
            },
            "ends before it starts",
            id="a validity that is none",
        ),
        pytest.param({"signature": {"formats": []}}, "formats is empty", id="no format"),
    ],
)
def test_a_trust_policy_that_can_allow_nothing_says_why(spec, says):
    whole = {"authorities": [{"name": "release", "key": {"publicKeyPEM": PEM}}], **spec}

    problems = trust_problems(TrustPolicySpec.model_validate(whole))

    assert any(says in problem for problem in problems)


def test_a_trust_policy_that_can_be_used_is_accepted():
    body = {
        "metadata": {"name": "p", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {
            "authorities": [RELEASE, KEYLESS],
            "signature": {"formats": ["OMS", "Cosign"]},
            "freshness": {"maxTrustAge": "7d"},
            "revoked": {"keyIds": ["a" * 64]},
        },
        "status": {"observedGeneration": -1},
    }
    cache = FleetCache()
    cache.put(TRUST_POLICIES, body)

    status = trust_status(cache.all(TRUST_POLICIES)[0], now=NOON)

    ready = next(each for each in status.conditions if each.type == "Ready")
    assert (ready.status, ready.reason) == ("True", "Accepted")


def test_a_status_that_is_as_it_should_be_is_not_written_again():
    metadata = {
        "name": "p",
        "namespace": "factory",
        "uid": "u",
        "resourceVersion": "1",
        "generation": 3,
    }
    body = {"metadata": metadata, "spec": {"steps": STEPS}, "status": {"observedGeneration": -1}}
    cache = FleetCache()
    cache.put(ROLLOUT_POLICIES, body)
    wanted = policy_status(cache.all(ROLLOUT_POLICIES)[0], now=NOON)
    assert wanted is not None
    assert wanted.observed_generation == 3

    newer = {**body, "metadata": {**metadata, "resourceVersion": "2"}, "status": wanted.to_dict()}
    cache.put(ROLLOUT_POLICIES, newer)

    assert policy_status(cache.all(ROLLOUT_POLICIES)[0], now=NOON) is None
