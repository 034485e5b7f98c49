"""``linnet lint``: before the rollout, what a policy would see of the real fleet, and when."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_cli.exits import Exit
from linnet_operator.evidence import config_map, make_record
from linnet_operator.foresight import foresee, steps_ahead
from linnet_operator.judge.assess import MetricInputs, assess
from linnet_operator.judge.compare import NodeCount, look
from linnet_operator.judge.learned import NodeHistory, learn
from linnet_operator.judge.verdicts import Verdict
from linnet_operator.terms import step_template

POLICY = """
apiVersion: linnet.dev/v1alpha1
kind: RolloutPolicy
metadata: {{name: careful, namespace: factory}}
spec:
  steps:
  - {{nodes: 1, bake: 10m}}
  - {{nodes: 30%, bake: 1h}}
  - {{nodes: 100%, bake: 1h}}
  judge:
    history: {{window: 10m, windows: 24, required: {required}}}
    compare: [{{name: errors, signal: Errors}}]
    thresholds: {thresholds}
"""


def spec(**judge):
    steps = [{"nodes": 1, "bake": "10m"}, {"nodes": "30%", "bake": "1h"}]
    return RolloutPolicySpec.model_validate(
        {"steps": [*steps, {"nodes": "100%", "bake": "1h"}], "judge": judge}
    )


def past(*, per_window=200.0, failures=2.0, nodes=10):
    """What nodes have learned that serve ``per_window`` requests in ten minutes."""
    rows = [
        NodeHistory(
            node=f"edge-{number}",
            windows=((failures, per_window),) * 24,
            recent=((0.0, per_window / 20),) * 24,
        )
        for number in range(1, nodes + 1)
    ]
    return learn(rows, interval_s=30.0, window_s=600.0)


@pytest.fixture
def policy(tmp_path):
    def write(thresholds="[]", required=6):
        path = tmp_path / "policy.yaml"
        path.write_text(POLICY.format(thresholds=thresholds, required=required), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def settled(stories):
    """A fleet whose newest rollout has read its past; its deployment names the policy."""
    fleet = stories["completed-without-two"]()

    def learned(found):
        template = step_template(spec())
        metric = MetricInputs(
            name="errors", signal="Errors", learned=found, candidates=(), stable=()
        )
        inputs = type(template)(
            metrics=(metric,),
            alpha=template.alpha,
            steps=template.steps,
            detect=template.detect,
            required_windows=6,
        )
        record = make_record(inputs, assess(inputs), about={"until": "2026-02-28T09:00:00Z"})
        fleet.objects["configmaps", "factory", "digits-2-e0"] = config_map(
            record, name="digits-2-e0", namespace="factory", labels={}, owner_references=[]
        )
        rollout = fleet.objects["modelrollouts", "factory", "digits-2"]
        rollout["status"]["evidence"] = {"name": "digits-2-e0", "sha256": record.sha256}
        deployment = fleet.objects["modeldeployments", "factory", "digits"]
        deployment["spec"]["policyRef"] = {"name": "careful"}
        deployment["status"]["nodes"]["eligible"] = 10
        return fleet.kube()

    return learned


def test_the_steps_are_told_in_integers_of_the_real_fleet(settled, linnet, policy):
    outcome = linnet(settled(past()), "lint", policy())

    assert outcome.code == Exit.OK
    assert "careful: can be used" in outcome.out
    assert "factory/digits: 10 nodes, stable 5f7c9d0a1b; its past as digits-2 learned it" in (
        outcome.out
    )
    assert "step 1: 1 of 10 nodes, 9 beside them; bake 10m" in outcome.out
    assert "step 3: 8 of 10 nodes, 2 beside them; bake 1h" in outcome.out


def test_a_gate_that_can_hardly_decide_is_a_warning_with_numbers(settled, linnet, policy):
    """3 requests a minute on one node: an hour of them says nothing about 1 %."""
    outcome = linnet(settled(past(per_window=30.0, failures=0.3)), "lint", policy())

    assert re.search(
        r"warning: step 1, errors: needs about \d+h to clear a healthy model; onUndecided \(Ask\) "
        r"acts first, after 1h",
        outcome.out,
    )


def test_a_window_without_failures_enough_is_a_warning_that_names_a_better_one(
    settled, linnet, policy
):
    out = linnet(settled(past(per_window=30.0, failures=0.3)), "lint", policy()).out

    assert (
        "does not see the harm that detect names (x3 or +0.01 of requests) within 1h, only" in out
    )
    assert re.search(r"within 1h, only from x([4-9]|10) on\n", out)
    assert out.count("too few") == 1
    assert (
        "warning: errors: a window of history (10m) holds about 0.3 failures of a node, too few to "
        "tell drift from chance: use windows of 2h\n"
    ) in out


def test_too_few_failures_beside_a_step_are_a_warning_that_names_the_control_group(
    settled, linnet, policy
):
    """A request a minute: the two beside the last step fail seven times in six hours."""
    out = linnet(settled(past(per_window=10.0, failures=0.1)), "lint", policy()).out

    assert re.search(
        r"warning: step 3, errors: the 2 nodes beside it fail about [67]\.\d times within 6h, too "
        r"few to tell a bad day from a bad model: keep more of them \(control\)",
        out,
    )


def test_thick_counts_are_no_warning(settled, linnet, policy):
    out = linnet(settled(past(per_window=20_000.0, failures=200.0)), "lint", policy()).out

    assert "too few" not in out


def test_several_comparisons_share_the_line_and_see_later():
    """Their average condemns: one of three must be three times as sure."""
    (_, step, _) = steps_ahead(spec(), eligible_count=10)

    alone = foresee(past(), step, step_template(spec()))
    of_three = foresee(past(), step, step_template(spec()), comparisons=3)

    assert dict(of_three.harms)["x2"] > 1.05 * dict(alone.harms)["x2"]
    assert alone.window_failures == pytest.approx(2.0)
    assert alone.beside_failures == pytest.approx(7 * 20 * 0.01 * 6 * 60, rel=0.05)
    assert alone.smallest in {1.2, 1.5, 2.0}


def test_a_fleet_without_traffic_is_told_so(settled, linnet, policy):
    outcome = linnet(settled(past(per_window=0.0, failures=0.0)), "lint", policy())

    assert "warning: step 1, errors: nothing is counted, so it can decide nothing" in outcome.out


@pytest.mark.parametrize(
    ("delay", "says"),
    [
        ("9m", ""),
        ("11m", "step 1 bakes 10m, but cannot end before initialDelay (11m) is over"),
        (
            "2h",
            "step 1 bakes 10m, and is decided before initialDelay (2h) is over: onNoData (Hold) "
            "acts before anything was measured",
        ),
    ],
)
def test_a_delay_that_a_step_does_not_outlast_is_a_warning(settled, linnet, policy, delay, says):
    limit = f"[{{name: t, query: x, max: '1', initialDelay: {delay}}}]"

    out = linnet(settled(past()), "lint", policy(limit)).out

    assert says in out if says else "initialDelay" not in out


@pytest.mark.parametrize(
    ("interval", "steps"), [("59m", []), ("1h", ["1"]), ("6h", ["1", "2", "3"])]
)
def test_samples_that_come_after_the_decision_are_a_warning(
    settled, linnet, policy, interval, steps
):
    limit = f"[{{name: t, query: x, max: '1', interval: {interval}}}]"

    out = linnet(settled(past()), "lint", policy(limit)).out

    warned = re.findall(
        r"warning: threshold t: step (\d) bakes \w+, and is decided after \w+, but sampled every "
        rf"{interval}: where no node serves yet at the first sample, onNoData \(Hold\) acts before "
        r"anything was measured\n",
        out,
    )
    assert warned == steps


def test_too_little_history_is_a_warning_and_says_what_would_happen(settled, linnet, policy):
    outcome = linnet(settled(past(nodes=1)), "lint", policy(required=24))

    assert "windows of history" in outcome.out
    assert "it would wait in Learning" in outcome.out


def test_a_fleet_whose_past_is_unknown_says_how_to_get_it(stories, linnet, policy):
    kube = stories["completed-without-two"]().kube()

    outcome = linnet(kube, "lint", policy(), "--deployment", "digits")

    assert "no rollout has read the fleet's past yet; --prometheus URL reads it now" in outcome.out


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        ("[{name: t, query: 'sum(x', max: '1'}]", "spec.judge.thresholds t: '(' is never closed"),
        ("[{name: t, query: 'x', max: 'one'}]", "spec.judge.thresholds.0.max"),
        ("[{name: t, query: x, maximum: 1}]", "spec.judge.thresholds.0.maximum is no field"),
        ("[{name: t, query: x}]", "spec.judge.thresholds t: it needs max, min, or both"),
    ],
)
def test_a_policy_that_cannot_be_used_is_an_error_that_names_the_field(
    linnet, policy, thresholds, says
):
    outcome = linnet(None, "lint", policy(thresholds), "--offline")

    assert outcome.code == Exit.ERROR
    assert "careful: cannot be used" in outcome.out
    assert says in outcome.out


def test_a_file_without_a_policy_is_misuse(linnet, tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("kind: ConfigMap", encoding="utf-8")

    assert linnet(None, "lint", str(path)).code == Exit.USAGE
    assert linnet(None, "lint", str(tmp_path / "gone")).code == Exit.ERROR


def test_without_the_operators_libraries_prometheus_cannot_be_read_and_it_is_said(
    settled, linnet, policy, monkeypatch
):
    """The extra `cli` has no aiohttp."""
    for module in ("linnet_operator.history", "linnet_operator.prometheus"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delitem(sys.modules, "linnet_operator.promapi", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    outcome = linnet(settled(past()), "lint", policy(), "--prometheus", "http://127.0.0.1:9")

    assert outcome.code == Exit.ERROR
    assert "--prometheus needs aiohttp: install linnet with its extra 'operator'" in outcome.err


@pytest.mark.slow
def test_all_else_needs_nothing_but_the_extra_of_the_command_line(policy):
    absent = ("aiohttp", "kopf", "kubernetes", "prometheus_client", "onnxruntime", "numpy")
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from linnet_cli.__main__ import main\n"
        f"sys.argv = ['linnet', 'lint', {policy()!r}, '--offline']\n"
        "sys.exit(int(main()))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stdout) == (Exit.OK, "careful: can be used\n"), done.stderr


def test_nobody_names_the_policy(linnet, stories, policy):
    outcome = linnet(stories["completed-without-two"]().kube(), "lint", policy())

    assert "no ModelDeployment in factory names careful" in outcome.err


# ---------------------------------------------------------------- the foresight itself


def counted(nodes, seconds, *, factor):
    return [
        NodeCount(
            node=node,
            failures=factor * 0.01 * seconds / 3,
            requests=seconds / 3,
            seconds=seconds,
        )
        for node in nodes
    ]


@pytest.mark.slow
def test_what_is_foreseen_is_what_the_judge_says_then():
    """20 requests a minute, 1 % errors: at the foreseen time the judge decides, before it not."""
    learned, template = past(), step_template(spec())
    (_, step, _) = steps_ahead(spec(), eligible_count=10)
    sight = foresee(learned, step, template)
    chosen = ["edge-2", "edge-5", "edge-9"]
    others = [node.node for node in learned.nodes if node.node not in chosen]
    doubled = dict(sight.harms)["x2"]

    def judged(seconds, factor):
        return look(
            learned,
            counted(chosen, seconds, factor=factor),
            counted(others, seconds, factor=1.0),
            alpha=template.alpha,
            steps=template.steps,
            detect=template.detect,
        )

    assert judged(sight.clears_s * 1.05, 1.0).verdict is Verdict.PASS
    assert judged(sight.clears_s * 0.9, 1.0).verdict is Verdict.UNDECIDED
    assert judged(doubled * 1.05, 2.0).verdict is Verdict.FAIL
    assert judged(doubled * 0.9, 2.0).verdict is Verdict.UNDECIDED


def test_steps_of_equal_quota_are_one():
    ahead = steps_ahead(spec(), eligible_count=2)

    assert [(step.first, step.last, step.nodes) for step in ahead] == [(1, 2, 1), (3, 3, 2)]


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
BARE = "kind: RolloutPolicy\nmetadata: {name: a}\n"
HEAD = f"apiVersion: linnet.dev/v1alpha1\n{BARE}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: RolloutPolicy\nmetadata: x\n", "  metadata: a map with a name is needed\n"),
        ("kind: RolloutPolicy\nmetadata: {name: 7}\n", "  metadata.name: a text is needed\n"),
        ("kind: RolloutPolicy\n", "document 1: cannot be used\n"),
        (f"{BARE}spec: {{steps: [{{nodes: 1}}]}}\n", "  apiVersion: linnet.dev/v1alpha1 is needed"),
        (
            f"{HEAD}spec: {{steps: [{{nodes: 1}}], judge: {{compare: "
            "[{name: e, signal: Errors}, {name: e, signal: Wrong}]}}\n",
            "  spec.judge.compare e: there are two of that name\n",
        ),
        (f"---\n---\n7\n---\n[1]\n---\n{HEAD}spec: [1]\n", "a: cannot be used\n  spec: a map"),
        (f"{HEAD}spec: hello\n", "  spec: a map is needed\n"),
        (f"{HEAD}spec: {{steps: 7}}\n", "  spec.steps: Input should be a valid tuple"),
        (f"{HEAD}spec: &a {{steps: [*a], judge: *a}}\n", "  spec.steps.0.nodes: Field required"),
        (f"{BOMB}{HEAD}spec: *a11\n", "  spec: a map is needed\n"),
        (f"{BOMB}kind: RolloutPolicy\nmetadata: {{name: *a11}}\n", "metadata.name: a text is"),
    ],
)
def test_a_policy_of_another_shape_is_said_field_by_field(text, says, linnet, stories, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")

    outcome = linnet(stories["first-rollout"]().kube(), "lint", str(path), "--offline")

    assert outcome.code == Exit.ERROR
    assert says in outcome.out


def test_all_that_is_wrong_with_a_policy_is_said_at_once(linnet, stories, policy):
    path = policy(thresholds="[{name: hot, query: up, colour: red}]")

    out = linnet(stories["first-rollout"]().kube(), "lint", path, "--offline").out

    assert out.splitlines()[:2] == [
        "careful: cannot be used",
        "  spec.judge.thresholds.0.colour is no field",
    ]
    assert "hot: " in out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[" * 1500, "nested too deep", marks=pytest.mark.slow),
        pytest.param(
            f"{HEAD}spec: {'[' * 1500}{']' * 1500}", "nested too deep", marks=pytest.mark.slow
        ),
        ("a: 2026-13-45", "month must be in 1..12"),
        ("a: !!bool maybe", "not what its tag says"),
        ("a: !!timestamp maybe", "not what its tag says"),
        ("a: *nobody", "undefined alias"),
        ("a: \x07", "special characters are not allowed"),
        (MERGES, "more than 10000 fields are merged"),
        ("a: {b: 1, c: 2, b: 3}", "the field b stands twice"),
    ],
    ids=[
        "deep",
        "deep field",
        "no date",
        "no bool",
        "no time",
        "no anchor",
        "bell",
        "merges",
        "twice",
    ],
)
def test_what_is_no_yaml_is_said_with_the_file(text, says, linnet, stories, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(text, encoding="utf-8")

    outcome = linnet(stories["first-rollout"]().kube(), "lint", str(path), "--offline")

    assert (outcome.code, outcome.out) == (Exit.ERROR, "")
    assert outcome.err.startswith(f"linnet: {path} cannot be read: ")
    assert says in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_field_may_replace_what_is_merged(linnet, stories, policy):
    path = Path(policy())
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}---\na: &a {{x: 1}}\nb: &b {{<<: *a, x: 2}}\nc: {{<<: *b, x: 3}}\n")

    assert linnet(stories["first-rollout"]().kube(), "lint", str(path), "--offline").code == Exit.OK


@pytest.mark.parametrize("more", [("--prometheus", "http://x"), ("--deployment", "digits")])
def test_offline_takes_nothing_that_needs_a_cluster(linnet, stories, policy, more):
    outcome = linnet(stories["first-rollout"]().kube(), "lint", policy(), "--offline", *more)

    assert (outcome.code, outcome.out) == (Exit.USAGE, "")
    assert "--offline reads the file alone" in outcome.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--prometheus", ""), "an address is needed"),
        (("--prometheus", "prometheus:9090"), "an address is needed"),
        (("--prometheus", "http://"), "an address is needed"),
        (("--prometheus", "ftp://prometheus"), "an address is needed"),
        (("--prometheus", "http://[::1"), "an address is needed"),
        (("--prometheus", "http://prometheus:99999"), "an address is needed"),
        (("--prometheus-auth", "/etc/linnet"), "--prometheus-auth goes with --prometheus"),
    ],
)
def test_what_is_no_address_is_misuse(linnet, settled, policy, flags, says):
    outcome = linnet(settled(past()), "lint", policy(), *flags)

    assert (outcome.code, outcome.out) == (Exit.USAGE, "")
    assert says in outcome.err


def test_a_threshold_is_not_told_to_ask_a_prometheus_that_does_not_answer(linnet, settled, policy):
    path = policy(thresholds='[{name: hot, query: up, max: "1"}]')
    outcome = linnet(settled(past()), "lint", path, "--prometheus", "http://127.0.0.1:1")

    assert "hot: not asked; as the past could not be read" in outcome.out
    assert "http://127.0.0.1:1/api/v1/query cannot be reached" in outcome.out
