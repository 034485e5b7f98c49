import json

import pytest

from linnet_agent.journal import Goal
from linnet_agent.store import ModelKey
from linnet_agent.sync import Desired, Link, object_key, read_wanted

KEY = ModelKey("factory", "defects")


def node_model(*, name="defects-1", sequence=5, generation=2, **changes):
    spec = {
        "deployment": "defects",
        "node": {"name": "edge-1", "uid": "n1"},
        "sequence": sequence,
        "desired": {
            "state": "Active",
            "revision": "aaaaaaaaaa",
            "number": 3,
            "source": "oci://r/m:1",
            "artifact": "sha256:" + "1" * 64,
            "serving": {"name": "defects", "threads": 2},
        },
        "baseline": {"revision": "bbbbbbbbbb", "artifact": "sha256:" + "2" * 64},
        "rollout": {"name": "defects-3", "uid": "u3", "step": 1},
        "soak": {"seconds": 7},
    }
    return {
        "metadata": {"namespace": "factory", "name": name, "generation": generation},
        "spec": spec | changes,
    }


@pytest.fixture
def told():
    return []


@pytest.fixture
def desired(tmp_path, told):
    return Desired(tmp_path, on_change=told.append)


def test_an_order_is_read_from_the_spec():
    wanted = read_wanted(node_model())

    assert wanted.key == KEY
    assert wanted.node_uid == "n1"
    assert (wanted.order.goal, wanted.order.revision, wanted.order.number) == (
        Goal.ACTIVE,
        "aaaaaaaaaa",
        3,
    )
    assert (wanted.order.baseline, wanted.order.rollout) == ("bbbbbbbbbb", "u3")
    assert (wanted.order.soak_s, wanted.order.threads) == (7, 2)


@pytest.mark.parametrize(
    ("swap", "replace"), [({}, False), ({"swap": "Beside"}, False), ({"swap": "Replace"}, True)]
)
def test_nothing_is_taken_out_that_the_order_does_not_say(swap, replace):
    item = node_model()
    item["spec"]["desired"] |= swap

    assert read_wanted(item).order.replace is replace


def test_the_serving_name_of_an_order_without_one_is_the_deployments():
    item = node_model()
    del item["spec"]["desired"]["serving"]

    assert read_wanted(item).order.serving_name == "defects"


def test_a_newer_hubs_unknown_fields_are_ignored():
    assert read_wanted(node_model(mood="fine")).order is not None


def test_a_spec_that_cannot_be_read_is_a_fault_with_its_place():
    wanted = read_wanted(node_model(sequence="soon"))

    assert wanted.order is None
    assert wanted.fault.startswith("spec.sequence: ")


@pytest.mark.parametrize("name", ["", "..", "../../etc", "a/b", ".hidden", "a\n", "x" * 300])
def test_a_name_that_is_no_name_never_becomes_a_path(name):
    item = node_model(deployment=name)
    assert read_wanted(item) is None

    item = node_model()
    item["metadata"]["namespace"] = name
    assert read_wanted(item) is None


def test_orders_are_there_again_after_a_restart(tmp_path, told, desired):
    desired.put("factory/defects-1", node_model())

    again = Desired(tmp_path, on_change=told.append)
    again.load()

    assert again.get(KEY).order == desired.get(KEY).order
    assert not again.synced


def test_what_a_listing_no_longer_has_is_gone_and_told(tmp_path, told, desired):
    desired.put("factory/defects-1", node_model())
    told.clear()

    desired.replace({})

    assert desired.synced
    assert desired.get(KEY) is None
    assert told == [KEY]
    assert list(tmp_path.iterdir()) == []


def test_rule_11_a_change_of_status_alone_writes_nothing_to_the_disk(tmp_path, desired):
    desired.put("factory/defects-1", node_model())
    before = (tmp_path / "factory.defects.json").stat().st_mtime_ns

    desired.put("factory/defects-1", node_model() | {"status": {"state": "Active"}})

    assert (tmp_path / "factory.defects.json").stat().st_mtime_ns == before
    assert desired.get(KEY).status == {"state": "Active"}


def test_a_report_does_not_hide_an_order_that_came_in_meanwhile(desired):
    desired.put("factory/defects-1", node_model())
    old = desired.get(KEY)
    desired.put("factory/defects-1", node_model(sequence=6, generation=3))

    desired.note_status(old, {"state": "Active"})

    assert desired.get(KEY).order.sequence == 6


def test_a_broken_file_is_left_out_and_the_others_are_read(tmp_path, told, desired):
    desired.put("factory/defects-1", node_model())
    (tmp_path / "a.b.json").write_text("{")
    (tmp_path / "a.c.json").write_text(json.dumps({"metadata": {}}))

    again = Desired(tmp_path, on_change=told.append)
    again.load()

    assert set(again.all()) == {KEY}


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param({"node": {"name": "edge-2", "uid": "n1"}}, id="another node's"),
        pytest.param({"node": None}, id="nobody's"),
        pytest.param({"node": "edge-1"}, id="no node at all"),
    ],
)
def test_what_is_not_for_this_node_is_as_none(tmp_path, told, foreign):
    desired = Desired(tmp_path, on_change=told.append, node="edge-1")

    desired.replace({"factory/defects-1": node_model(**foreign)})

    assert desired.all() == {}
    assert list(tmp_path.iterdir()) == []


def test_an_object_of_another_kind_is_as_none(tmp_path, told):
    desired = Desired(tmp_path, on_change=told.append, node="edge-1")

    desired.put("factory/defects-1", node_model() | {"kind": "ModelRollout"})
    assert desired.all() == {}

    desired.put("factory/defects-1", node_model() | {"kind": "NodeModel"})
    assert set(desired.all()) == {KEY}


def test_an_order_that_becomes_another_nodes_has_vanished_which_is_no_order(tmp_path, told):
    desired = Desired(tmp_path, on_change=told.append, node="edge-1")
    desired.put("factory/defects-1", node_model())

    desired.put("factory/defects-1", node_model(node={"name": "edge-2", "uid": "n1"}))

    assert desired.get(KEY) is None


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_two_that_speak_of_one_model_the_newest_order_counts(tmp_path, told, order):
    desired = Desired(tmp_path, on_change=told.append)
    sequences = {"a": 9, "b": 7}
    for name in order:
        desired.put(f"factory/{name}", node_model(name=name, sequence=sequences[name]))
    assert desired.get(KEY).order.sequence == 9

    desired.drop("factory/b")
    assert desired.get(KEY).order.sequence == 9
    desired.put("factory/b", node_model(name="b", sequence=8))
    desired.drop("factory/a")

    assert desired.get(KEY).order.sequence == 8
    again = Desired(tmp_path, on_change=told.append)
    again.load()
    assert again.get(KEY).order.sequence == 8


def test_one_that_speaks_of_another_model_all_of_a_sudden_leaves_the_first(tmp_path, told):
    desired = Desired(tmp_path, on_change=told.append)
    desired.put("factory/defects-1", node_model())

    desired.put("factory/defects-1", node_model(deployment="cracks"))

    assert set(desired.all()) == {ModelKey("factory", "cracks")}
    assert [path.name for path in tmp_path.iterdir()] == ["factory.cracks.json"]


@pytest.mark.parametrize(
    "odd",
    [
        {"spec": None},
        {"spec": 1},
        {"spec": {"deployment": "defects", "desired": []}},
        {"spec": {"deployment": "defects"}, "status": [1]},
        {
            "spec": {"deployment": "defects"},
            "metadata": {"namespace": "factory", "name": "x", "generation": "2"},
        },
    ],
)
def test_an_object_of_any_shape_is_taken_without_harm(desired, odd):
    desired.put("factory/defects-1", node_model() | odd)

    wanted = desired.get(KEY)
    assert wanted is None or wanted.order is None


def test_a_disk_that_takes_nothing_leaves_the_orders_in_memory(tmp_path, told):
    (tmp_path / "desired").write_text("no directory")
    desired = Desired(tmp_path / "desired", on_change=told.append)

    desired.put("factory/defects-1", node_model())
    assert desired.get(KEY).order.sequence == 5
    desired.drop("factory/defects-1")

    assert desired.get(KEY) is None


def test_objects_are_known_by_namespace_and_name():
    assert object_key(node_model()) == "factory/defects-1"
    assert object_key({"metadata": {"name": "release"}}) == "release"


async def test_who_waits_for_the_hub_is_woken_when_it_is_back():
    ups = []
    link = Link(on_up=lambda: ups.append(1))
    link.mark(up=False)
    link.mark(up=True)

    await link.wait_restored(60) if not link.up else None
    assert ups == [1]

    link.mark(up=True)
    assert ups == [1]


async def test_a_lost_link_ends_a_wait_for_it():
    link = Link()
    link.mark(up=True)
    link.mark(up=False)

    await link.wait_lost()
    assert not link.up


def test_what_a_revision_may_take_is_in_its_order():
    item = node_model()
    item["spec"]["desired"]["resources"] = {"memory": "512Mi", "latency": "50ms"}

    order = read_wanted(item).order

    assert (order.memory_bytes, order.latency_s) == (512 << 20, 0.05)
    assert read_wanted(node_model()).order.memory_bytes is None


def test_the_order_of_variants_is_in_an_order():
    item = node_model()
    item["spec"]["desired"]["variants"] = ["onnx-int8", "onnx"]

    assert read_wanted(item).order.variants == ("onnx-int8", "onnx")
    assert read_wanted(node_model()).order.variants == ()
