"""Evidence on real parts: it survives the operator, and people can read it, check it, foresee it.

- The operator is killed in the middle of a row of failures; the row goes on where it was.
- `linnet lint` had foreseen it, `linnet explain` shows it, and `--verify` computes it again.
"""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from releases import Releases, linear

from linnet_testbed.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(580)]

LINNET = Path(sys.executable).with_name("linnet")
PATIENCE_S = 150
QUICK = {"steps": [{"nodes": "100%", "bake": "1s"}], "judge": {"compare": []}}
TOLERATED = 20
ROW = {
    "steps": [{"nodes": "100%", "bake": "5m"}],
    "judge": {
        "interval": "1s",
        "compare": [],
        "thresholds": [
            # Linnet's own name for the revision must be filled in for there to be a value.
            {
                "name": "answers",
                "query": 'count(linnet_model_info{revision="{{revision}}",'
                'namespace="{{namespace}}"}) + 1',
                "max": "1",
                "consecutiveFailureLimit": TOLERATED,
            },
            {"name": "rehearsal", "query": "vector(9)", "max": "1", "dryRun": True},
        ],
    },
}


class Story:
    """One deployment on one node of the bed."""

    def __init__(self, bed, workdir):
        self.bed, self.workdir, self.counter = bed, workdir, 0
        self.namespace = f"evidence-{uuid.uuid4().hex[:6]}"
        self.node = bed.node("edge-1")
        self.releases = Releases(bed, self.namespace)
        policies = [
            self._object("RolloutPolicy", name, spec)
            for name, spec in {"quick": QUICK, "row": ROW}.items()
        ]
        bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        bed.apply(policies)
        self.releases.trust()

    def _object(self, kind, name, spec):
        return {
            "apiVersion": "linnet.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    def deploy(self, tag, *, policy):
        """Publish version ``tag`` and name it."""
        self.counter += 1
        directory = self.workdir / tag
        directory.mkdir()
        (directory / "model.onnx").write_bytes(
            linear(float(tag), note=f"{self.namespace} {self.counter}")
        )
        self.releases.release(directory, "rows", tag, counter=self.counter)
        one = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.node.name]}
        spec = {
            "source": self.releases.source("rows", tag),
            "nodes": {"matchExpressions": [one]},
            "policyRef": {"name": policy},
        }
        self.bed.apply(self._object("ModelDeployment", "rows", spec))

    def rollout(self, number):
        found = self.bed.get("modelrollouts", "-n", self.namespace)["items"]
        name = f"rows-{number}"
        return next((r for r in found if r["metadata"]["name"] == name), {}).get("status", {})

    def ask(self):
        """Ask the node's server once: without requests there is nothing that is scraped."""
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
        url = f"{self.node.server_url}/v2/models/{self.namespace}.rows/infer"
        request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310 - loopback
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback

    def wait(self, condition, what):
        until(lambda: (self.ask(), condition())[1], timeout=PATIENCE_S, what=what)

    def linnet(self, *argv):
        """Run the CLI; return its exit code and all that it said."""
        env = {**os.environ, **self.bed.env}  # noqa: TID251 - a child's environment
        done = subprocess.run(
            [LINNET, argv[0], *argv[1:], "-n", self.namespace],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def story(fleet, tmp_path):
    told = Story(fleet, tmp_path)
    yield told
    fleet.operator.start()
    fleet.kubectl("delete", "modeldeployment", "rows", "-n", told.namespace, "--ignore-not-found")
    fleet.kubectl("delete", "trustpolicy", told.namespace)
    fleet.kubectl("delete", "namespace", told.namespace, "--wait=false")


def test_a_row_of_failures_goes_on_over_the_operators_death_and_can_be_verified(story, tmp_path):
    story.deploy("1", policy="quick")
    story.wait(lambda: story.rollout(1).get("phase") == "Completed", "version 1")
    path = tmp_path / "row.yaml"
    path.write_text(yaml.safe_dump(story._object("RolloutPolicy", "row", ROW)))
    foreseen = story.linnet(
        "lint", str(path), "--deployment", "rows", "--prometheus", story.bed.prometheus_url
    )
    story.deploy("2", policy="row")

    def in_a_row():
        return "in a row" in (story.rollout(2).get("waitingFor") or {}).get("message", "")

    story.wait(in_a_row, "a row that has begun")
    killed_at = datetime.now(UTC)  # noqa: TID251 - beside the times of a real Prometheus
    story.bed.operator.kill()
    story.bed.operator.start()
    story.wait(lambda: story.rollout(2).get("phase") == "RolledBack", "version 2 taken back")

    status = story.rollout(2)
    decision = status["decisions"][-1]
    assert f"{TOLERATED + 1} times in a row" in decision["message"]
    assert "Dry run, would have taken it back: rehearsal" in decision["message"]
    assert story.linnet("explain", "rows", "--verify")[0] == 0
    code, said = story.linnet("explain", "rows", "--decision", str(decision["n"]))
    assert code == 0
    assert "answers (threshold)" in said
    assert "rehearsal (threshold) (dry run: decides nothing)" in said
    assert "computed again, it agrees with the record" in said
    broken = next(line for line in said.splitlines() if line.strip().startswith("broken"))
    # A row that had begun anew would be this long after the operator was back.
    after_s = (datetime.fromisoformat(broken.split()[-1]) - killed_at).total_seconds()
    assert after_s < TOLERATED
    code, said = foreseen
    assert code == 0, said
    assert "threshold answers is beyond its limit on the stable revision already" in said
