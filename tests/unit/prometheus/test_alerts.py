"""The alerts that come with Linnet, on the metrics that its processes really have."""

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import start_http_server

from linnet_agent.metrics import Metrics as AgentMetrics
from linnet_api.reasons import WaitReason
from linnet_operator import metrics as operator
from linnet_testbed.waiting import until

RULES = Path(__file__).parents[3] / "charts" / "linnet" / "monitoring" / "alerts.yaml"
SPEC = yaml.safe_load(RULES.read_text())["spec"]
ALERTS = {rule["alert"]: rule["expr"] for group in SPEC["groups"] for rule in group["rules"]}


@pytest.fixture
def rule_file(tmp_path):
    """Return the rules as Prometheus reads them from a file."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


def test_all_metrics_and_reasons_in_the_alerts_are_there():
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for registry in (operator.REGISTRY, AgentMetrics().registry)
        for family in registry.collect()
    }
    named = {name for expr in ALERTS.values() for name in re.findall(r"\blinnet_\w+", expr)}
    reasons = {
        reason
        for expr in ALERTS.values()
        for alternatives in re.findall(r'reason=~"([^"]+)"', expr)
        for reason in alternatives.split("|")
    }

    assert named <= names
    assert reasons <= set(WaitReason)
    assert len(ALERTS) == 4


def test_promtool_has_nothing_to_say(rule_file):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; a real Prometheus reads the rules below")

    done = subprocess.run([promtool, "check", "rules", rule_file], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr


class Watcher:
    """A real Prometheus that scrapes registries of this process and reads the alerts."""

    def __init__(self, start_prometheus, rule_file, registries):
        servers = [start_http_server(0, "127.0.0.1", each)[0] for each in registries]
        targets = [f"127.0.0.1:{server.server_port}" for server in servers]
        every = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "300ms")
        config = {
            "global": every,
            "rule_files": [str(rule_file)],
            "scrape_configs": [
                {
                    "job_name": "linnet",
                    "static_configs": [{"targets": targets, "labels": {"node": "edge-1"}}],
                }
            ],
        }
        self._prometheus = start_prometheus(servers, config)
        self._url, self.close = self._prometheus.url, self._prometheus.close

    def says(self):
        """Return what each alert says: inactive, pending or firing."""
        try:
            answer = httpx.get(f"{self._url}/api/v1/rules", params={"type": "alert"})
        except httpx.TransportError:
            assert not self._prometheus.has_ended, "Prometheus does not accept the rules"
            return None
        groups = answer.json()["data"]["groups"] if answer.status_code == 200 else []
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    def has(self, query, value):
        """Return whether a query's only series has this value."""
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": query})
        return [float(each["value"][1]) for each in answer.json()["data"]["result"]] == [value]


@pytest.fixture
def agent():
    return AgentMetrics()


@pytest.fixture
def prometheus(agent, rule_file, start_prometheus):
    # What other tests of this process have left.
    for metric in (operator.PLACEBO, operator.PLACEBO_ALARM, operator.ROLLOUT_WAITING):
        metric.clear()
    started = Watcher(start_prometheus, rule_file, [operator.REGISTRY, agent.registry])
    yield started
    started.close()


@pytest.mark.slow
def test_each_alert_begins_when_it_should_and_ends_again(prometheus, agent):
    of = ("factory", "alerts")
    placebo = operator.PLACEBO.labels(*of, "TakenBack")
    allowed = operator.PLACEBO_ALLOWED.labels(*of)
    alarm = operator.PLACEBO_ALARM.labels(*of)
    agent.show_trust({"Stale": False})
    operator.ROLLOUT_WAITING.labels(*of, "Baking").set(1)
    quiet, rung = dict.fromkeys(ALERTS, "inactive"), dict.fromkeys(ALERTS, "pending")

    def become(wanted):
        until(lambda: prometheus.says() == wanted, 60, f"the alerts say {wanted}")

    def scraped(series, value):
        until(lambda: prometheus.has(series, value), 60, f"{series} is scraped")

    become(quiet)
    scraped("linnet_rollout_waiting", 1)
    scraped("linnet_agent_trust_alarm", 0)
    become(quiet)

    agent.show_trust({"Stale": True})
    alarm.set(1)
    operator.ROLLOUT_WAITING.labels(*of, "NoData").set(1)
    operator.ROLLOUT_WAITING.labels(*of, "Decision").set(1)
    become(rung)

    agent.show_trust({"Stale": False})
    alarm.set(0)
    for reason in ("NoData", "Decision"):
        operator.ROLLOUT_WAITING.remove(*of, reason)
    # As many as falseRollback allows.
    allowed.inc(4)
    placebo.inc(4)
    scraped('linnet_judge_placebo_total{outcome="TakenBack"}', 4)
    become(quiet)

    placebo.inc(40)
    become(quiet | {"LinnetJudgeUnreliable": "pending"})
