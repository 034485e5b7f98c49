"""What makes a look partial: warnings, old scrapes, nodes that lag, strangers."""

from datetime import UTC, datetime, timedelta

import pytest

from linnet_operator.cache import FleetCache
from linnet_operator.completeness import holders_of, say_partial
from linnet_operator.judge.counters import Counts
from linnet_operator.kube import NODE_MODELS
from linnet_operator.prometheus import ScrapeTime

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOLDERS = {"new": ["edge-1"], "old": ["edge-1", "edge-2"]}


def partial(*, age_s=1.0, interval_s=5.0, behind=(), warnings=(), stranger=None):
    rows = {("edge-1", "new"): ((0.0, 0.0), (1.0, 10.0)), ("edge-2", "old"): ((0.0, 5.0),) * 2}
    if stranger:
        rows[stranger] = ((0.0, 0.0), (0.0, 1.0))
    return say_partial(
        Counts(times_s=(0.0, 1.0), by_node_revision=rows, warnings=tuple(warnings)),
        ScrapeTime(at=NOON - timedelta(seconds=age_s), behind=tuple(behind)),
        now=NOON,
        interval=timedelta(seconds=interval_s),
        candidates=["edge-1"],
        holders=HOLDERS,
    )


def test_what_is_whole_has_nothing_to_say():
    assert partial() == ""


@pytest.mark.parametrize(
    ("age_s", "interval_s", "stale"),
    [
        pytest.param(30, 5, False, id="half a minute is never old"),
        pytest.param(31, 5, True, id="more is, where looks are frequent"),
        pytest.param(90, 30, False, id="three intervals are not old"),
        pytest.param(91, 30, True, id="more than three"),
    ],
)
def test_a_scrape_is_old_after_three_intervals_and_half_a_minute(age_s, interval_s, stale):
    said = partial(age_s=age_s, interval_s=interval_s)

    assert said.startswith("the newest scrape is ") is stale
    assert bool(said) is stale


def test_a_candidate_that_lags_is_named_and_a_stable_node_is_not():
    assert partial(behind=["edge-1", "edge-2"]) == "no fresh scrape of edge-1"
    assert partial(behind=["edge-2"]) == ""


def test_warnings_of_the_source_and_strangers_are_told_together():
    said = partial(warnings=["a store is down"], stranger=("edge-2", "new"))

    assert said.startswith("a store is down; ForeignSeries: node 'edge-2' reports revision new")


@pytest.mark.parametrize("revision", ["new", "unheard of"])
def test_who_grows_under_a_revision_that_it_does_not_hold_is_a_stranger(revision):
    assert "ForeignSeries" in partial(stranger=("edge-3", revision))


def test_a_node_holds_what_it_was_told_to_and_what_it_reports():
    """Told, kept for the way back, reported, on its disk, served now and before."""
    wanted, baseline, reported, on_disk, current, previous = (f"{n:010x}" for n in range(1, 7))
    digest = f"sha256:{'a' * 64}"

    def having(revision):
        return {"revision": revision, "artifact": digest, "modelDigest": digest}

    desired = {"state": "Active", **having(wanted), "source": "oci://r"}
    desired.pop("modelDigest")
    cache = FleetCache()
    for node, status in (
        (
            "edge-1",
            {
                "revision": reported,
                "onDisk": [on_disk],
                "current": having(current),
                "previous": having(previous),
            },
        ),
        ("edge-2", {}),
    ):
        metadata = {"name": node, "namespace": "factory", "uid": node, "resourceVersion": "1"}
        spec = {
            "deployment": "digits",
            "node": {"name": node, "uid": "n"},
            "sequence": 1,
            "desired": desired,
        }
        if status:
            spec["baseline"] = {"revision": baseline, "artifact": digest}
        cache.put(NODE_MODELS, {"metadata": metadata, "spec": spec, "status": status})

    holders = holders_of(cache.of_deployment(NODE_MODELS, namespace="factory", deployment="digits"))

    assert holders == {
        wanted: ["edge-1", "edge-2"],
        **{held: ["edge-1"] for held in (baseline, reported, on_disk, current, previous)},
    }
