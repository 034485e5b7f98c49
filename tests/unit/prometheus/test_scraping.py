"""Target labels as the Prometheus operator makes them, and the PodMonitors that we ship."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from linnet_operator.presets import Subject
from linnet_operator.prometheus import PrometheusSource

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

FILE = Path(__file__).parents[3] / "charts" / "linnet" / "monitoring" / "podmonitors.yaml"
SUBJECT = Subject(namespace="factory", deployment="digits")


def as_the_operator_labels(node):
    """Return what a target of a pod has: the operator sets ``namespace`` by itself."""
    return {"namespace": "linnet-agents", "__meta_kubernetes_pod_node_name": node}


def relabelings(name):
    """Return a PodMonitor's relabelings as Prometheus' own configuration has them."""
    (monitor,) = (
        each for each in yaml.safe_load_all(FILE.read_text()) if each["metadata"]["name"] == name
    )
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    return [
        {
            re.sub("[A-Z]", lambda big: f"_{big[0].lower()}", key): value
            for key, value in rule.items()
        }
        for rule in endpoint["relabelings"]
    ]


async def scrape_time(url, done):
    """Return the first answer that is ``done``."""
    async with PrometheusSource(url) as source, asyncio.timeout(90):
        while True:
            now = datetime.now(tz=UTC)  # noqa: TID251 - a real Prometheus is in real time
            found = await source.newest_common_time(
                SUBJECT, now=now, lag_limit=timedelta(seconds=30)
            )
            if done(found):
                return found
            await asyncio.sleep(0.1)


async def test_a_scraper_with_a_namespace_of_its_own_is_told_apart_from_no_scraper(start_watched):
    watched = start_watched(labels=as_the_operator_labels)
    for exporter in watched.exporters.values():
        exporter.serve("r1", good=5)

    found = await scrape_time(watched.url, lambda said: "exported" in said.no_data)

    assert found.at is None
    assert "drop that, as charts/linnet/monitoring/podmonitors.yaml does" in found.no_data


async def test_the_podmonitor_that_we_ship_gives_nodes_and_leaves_our_namespace(start_watched):
    watched = start_watched(labels=as_the_operator_labels, relabel=relabelings("linnet-nodes"))
    for exporter in watched.exporters.values():
        exporter.serve("r1", good=5)

    found = await scrape_time(watched.url, lambda said: len(said.nodes) == 2)

    assert found.nodes == ("edge-a", "edge-b")
