"""``linnet lint --prometheus``: the fleet's own past, read from a real Prometheus."""

import asyncio
import io
from datetime import UTC, datetime

import pytest

from linnet_cli.app import main
from linnet_cli.exits import Exit
from linnet_cli.world import World

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

OLD = "0123456789"
POLICY = """
apiVersion: linnet.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  steps: [{nodes: 1, bake: 10m}, {nodes: 100%, bake: 10m}]
  judge:
    interval: 1s
    history: {window: 1s, windows: 3, required: 2}
    thresholds:
    - {name: heat, query: 'max(camera_temperature_celsius{node=~"{{nodes}}"})', max: "85"}
    - {name: cold, query: 'max(camera_temperature_celsius)', max: "20"}
    - {name: each, query: 'camera_temperature_celsius', max: "85"}
    - {name: gone, query: 'absent_metric', max: "85"}
    - {name: wrong, query: 'max(1, 2)', max: "85"}
"""


class Cluster:
    """What ``lint`` reads of a cluster: one deployment, and the nodes that serve it."""

    namespace = "factory"
    server_time = None

    def get(self, path):
        if path.endswith("modeldeployments"):
            return {"items": [self.deployment()]}
        assert path.endswith("nodemodels"), path
        return {"items": [self.order(node) for node in ("edge-a", "edge-b")]}

    @staticmethod
    def deployment():
        return {
            "metadata": {"name": "digits", "namespace": "factory"},
            "spec": {"source": "oci://r.io/a:1", "policyRef": {"name": "careful"}},
            "status": {"stable": {"revision": OLD, "number": 1}, "nodes": {"eligible": 2}},
        }

    @staticmethod
    def order(node):
        return {
            "metadata": {"name": node, "namespace": "factory"},
            "spec": {"deployment": "digits", "node": {"name": node}},
            "status": {"current": {"revision": OLD}},
        }


def lint(url, path):
    out, err = io.StringIO(), io.StringIO()
    world = World(
        prog="linnet",
        out=out,
        err=err,
        now=lambda: datetime.now(tz=UTC),  # noqa: TID251 - a real Prometheus is in real time
        monotonic=lambda: 0.0,
        sleep=lambda _: None,
        token=lambda: "t",
        connect=lambda _: Cluster(),
    )
    return main(["lint", str(path), "--prometheus", url], world), out.getvalue(), err.getvalue()


async def test_what_the_fleet_does_now_is_what_the_policy_will_see(
    exporters, until, prometheus_url, tmp_path
):
    for exporter in exporters.values():
        exporter.heat.set(61)
        exporter.serve(OLD, good=20)
    await until({("edge-a", OLD): 20, ("edge-b", OLD): 20})
    for _ in range(20):
        for exporter in exporters.values():
            exporter.serve(OLD, good=20, bad=1)
        await asyncio.sleep(0.2)
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, encoding="utf-8")

    code, out, err = await asyncio.to_thread(lint, prometheus_url, path)
    async with asyncio.timeout(60):
        # A busy machine may have lost a scrape.
        while "its past of" not in out:
            code, out, err = await asyncio.to_thread(lint, prometheus_url, path)

    assert (code, err) == (Exit.OK, "")
    assert f"factory/digits: 2 nodes, stable {OLD}; its past of 3 x 1s up to" in out
    assert "step 1 to 2" not in out
    assert "errors: clears a healthy model " in out
    assert "threshold heat: 61 is within the limit (at most 85); sampled every" in out
    assert "threshold cold is beyond its limit on the stable revision already" in out
    assert "2 series came back where one was expected" in out
    assert "threshold gone has no usable value now" in out
    assert "threshold wrong has no usable value now" in out
    assert "check the query" in out
