"""What the agent orders: stage, activate, remove; who keeps a name; what a bad `current` means."""

import asyncio
import json
import shutil

import pytest

from linnet_api.reasons import NodeReason
from linnet_server import errors

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}
INFER = "/v2/models/defects/infer"
CONTROL = "/control/models/factory/defects"


async def answer_of(bench, path=INFER):
    answer = await bench.client.post(path, json={"inputs": [X]})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return document["parameters"]["revision"], document["outputs"][0]["data"][0]


async def listing(bench):
    return (await bench.agent.get("/control/models")).json()


async def test_a_staged_revision_does_not_serve_until_it_is_activated(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2", number=2)
    async with open_bench() as bench:
        staged = await bench.agent.put(f"{CONTROL}/staged", json={"path": str(second)})
        before = await answer_of(bench)
        named = await bench.client.get("/v2/models/defects/versions/r2")
        series_while_staged = await bench.outcomes("r2")

        await bench.agent.post(f"{CONTROL}/activate", json={"revision": "r2"})

        assert staged.status_code == 200
        assert staged.json()["revision"] == "r2"
        assert staged.json()["loadSeconds"] > 0
        assert before == ("r1", 1)
        assert named.status_code == 404
        assert series_while_staged == {}
        assert await answer_of(bench) == ("r2", 2)
        assert (await bench.outcomes("r1"))["success"] == 1
        assert (await bench.outcomes("r2"))["success"] == 1
        info = [name for name in await bench.samples() if name.startswith("linnet_model_info")]
        assert len(info) == 1
        assert 'revision="r2"' in info[0]


async def test_reverting_is_the_same_way_back_and_the_counters_go_on(node, models, open_bench):
    first = node.add(models.adder(1))
    second = node.add(models.adder(2), revision="r2", number=2)
    node.set_current(first)
    async with open_bench() as bench:
        await answer_of(bench)
        await bench.activate(second)

        await bench.activate(first)
        since_activation = (await listing(bench))["models"][0]["requests"]
        await answer_of(bench)

        assert since_activation == 0
        assert (await bench.outcomes("r1"))["success"] == 2
        assert (await listing(bench))["models"][0]["requests"] == 1


async def test_every_order_may_be_sent_twice(node, models, open_bench):
    first = node.add(models.adder(1))
    async with open_bench() as bench:
        put = [
            await bench.agent.put(f"{CONTROL}/staged", json={"path": str(first)}) for _ in range(2)
        ]
        post = [
            await bench.agent.post(f"{CONTROL}/activate", json={"revision": "r1"}) for _ in range(2)
        ]
        put_again = await bench.agent.put(f"{CONTROL}/staged", json={"path": str(first)})
        unstage = [await bench.agent.delete(f"{CONTROL}/staged") for _ in range(2)]
        served = await answer_of(bench)
        remove = [await bench.agent.delete(CONTROL) for _ in range(2)]

        assert [answer.status_code for answer in [*put, *post, put_again]] == [200] * 5
        assert put[0].json() == put[1].json() == put_again.json()
        assert [answer.status_code for answer in [*unstage, *remove]] == [204] * 4
        assert served == ("r1", 1)
        assert await listing(bench) == {"models": [], "staged": []}
        assert (await bench.client.post(INFER, json={"inputs": [X]})).status_code == 404


async def test_the_listing_says_what_serves_and_what_is_staged(node, models, open_bench):
    node.set_current(node.add(models.adder(1), number=16))
    second = node.add(models.adder(2), revision="r2", number=17)
    async with open_bench() as bench:
        await bench.agent.put(f"{CONTROL}/staged", json={"path": str(second)})
        await answer_of(bench)

        document = await listing(bench)

    digest = document["models"][0].pop("modelDigest")
    assert 0 < document["models"][0].pop("durationSeconds") < 1
    assert digest.startswith("sha256:")
    assert document["models"] == [
        {
            "namespace": "factory",
            "deployment": "defects",
            "servingName": "defects",
            "revision": "r1",
            "number": 16,
            "state": "Ready",
            "requests": 1,
            "failures": 0,
        }
    ]
    assert [staged["revision"] for staged in document["staged"]] == ["r2"]


async def test_activating_what_is_not_staged_is_a_conflict(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    async with open_bench() as bench:
        answer = await bench.agent.post(f"{CONTROL}/activate", json={"revision": "r9"})
        unknown = await bench.agent.post("/control/models/a/b/activate", json={"revision": "r9"})

        assert (answer.status_code, answer.json()["reason"]) == (409, "NotStaged")
        assert unknown.status_code == 409
        assert await answer_of(bench) == ("r1", 1)


async def test_a_revision_that_cannot_be_loaded_leaves_everything_as_it_was(
    node, models, open_bench
):
    node.set_current(node.add(models.adder(1)))
    garbage = node.add(lambda path: path.write_bytes(b"not a model"), revision="r2")
    other = node.add(models.adder(3), revision="r3", file="model.plan")
    async with open_bench() as bench:
        load = await bench.agent.put(f"{CONTROL}/staged", json={"path": str(garbage)})
        kind = await bench.agent.put(f"{CONTROL}/staged", json={"path": str(other)})

        assert (load.status_code, load.json()["reason"]) == (422, "LoadFailed")
        assert load.json()["message"]
        assert (kind.status_code, kind.json()["reason"]) == (422, "NotOnnx")
        assert await answer_of(bench) == ("r1", 1)
        assert (await listing(bench))["staged"] == []
        assert (await bench.client.get("/v2/health/ready")).status_code == 200


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda d: (d / "serving.json").unlink(), id="no serving.json"),
        pytest.param(lambda d: (d / "serving.json").write_text("{"), id="not JSON"),
        pytest.param(lambda d: (d / "serving.json").write_text("{}"), id="no fields"),
        pytest.param(lambda d: (d / "model").unlink(), id="no model"),
        pytest.param(lambda d: relink(d, "/etc"), id="model leads out of the store"),
        pytest.param(lambda d: relink(d, "."), id="model is the revision itself"),
        pytest.param(lambda d: edit(d, revision="r7"), id="another revision's record"),
        pytest.param(lambda d: edit(d, deployment="cats"), id="another deployment's record"),
        pytest.param(lambda d: edit(d, file="../x.onnx"), id="file leads out of the model"),
        pytest.param(lambda d: edit(d, file="missing.onnx"), id="file is missing"),
        pytest.param(lambda d: edit(d, threads=0), id="no threads"),
        pytest.param(shutil.rmtree, id="no directory"),
    ],
)
async def test_an_order_that_does_not_fit_the_disk_is_refused(node, models, open_bench, spoil):
    directory = node.add(models.adder(1))
    spoil(directory)
    async with open_bench() as bench:
        answer = await bench.agent.put(f"{CONTROL}/staged", json={"path": str(directory)})

        assert (answer.status_code, answer.json()["reason"]) == (422, "InvalidOrder")
        assert answer.json()["message"]


async def test_a_directory_outside_the_root_is_refused(node, models, open_bench, tmp_path):
    directory = node.add(models.adder(1))
    elsewhere = tmp_path / "r1"
    shutil.copytree(directory, elsewhere, symlinks=True)
    async with open_bench() as bench:
        for path in (str(elsewhere), "/", "relative", "with\0null"):
            answer = await bench.agent.put(f"{CONTROL}/staged", json={"path": path})

            assert (answer.status_code, answer.json()["reason"]) == (422, "InvalidOrder")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("PUT", f"{CONTROL}/staged", {}, 400, id="no path"),
        pytest.param("PUT", f"{CONTROL}/staged", {"path": 7}, 400, id="path is a number"),
        pytest.param("POST", f"{CONTROL}/activate", {}, 400, id="no revision"),
        pytest.param("GET", f"{CONTROL}/staged", {}, 405, id="no such order"),
        pytest.param("GET", "/v2", {}, 404, id="the public API is not here"),
    ],
)
async def test_an_order_that_is_no_order(open_bench, method, path, body, status):
    async with open_bench() as bench:
        assert (await bench.agent.request(method, path, json=body)).status_code == status


async def test_who_serves_a_name_keeps_it(node, models, open_bench):
    node.set_current(node.add(models.adder(1), deployment="one", serving_name="shared"))
    rival = node.add(models.adder(2), deployment="two", serving_name="shared")
    async with open_bench() as bench:
        refused = await bench.agent.put(
            "/control/models/factory/two/staged", json={"path": str(rival)}
        )
        kept = await answer_of(bench, "/v2/models/shared/infer")
        await bench.agent.delete("/control/models/factory/one")
        await bench.activate(rival)

        assert (refused.status_code, refused.json()["reason"]) == (422, "ServingNameTaken")
        assert "factory/one" in refused.json()["message"]
        assert kept == ("r1", 1)
        assert await answer_of(bench, "/v2/models/shared/infer") == ("r1", 2)


async def test_a_staged_name_is_taken_too(node, models, open_bench):
    first = node.add(models.adder(1), deployment="one", serving_name="shared")
    rival = node.add(models.adder(2), deployment="two", serving_name="shared")
    async with open_bench() as bench:
        orders = [
            bench.agent.put("/control/models/factory/one/staged", json={"path": str(first)}),
            bench.agent.put("/control/models/factory/two/staged", json={"path": str(rival)}),
        ]
        answers = await asyncio.gather(*orders)

        assert sorted(answer.status_code for answer in answers) == [200, 422]


async def test_two_namespaces_may_use_their_own_names(node, models, open_bench):
    node.set_current(node.add(models.adder(1), namespace="a", serving_name="one"))
    node.set_current(node.add(models.adder(2), namespace="b", serving_name="two"))
    async with open_bench() as bench:
        assert await answer_of(bench, "/v2/models/a.one/infer") == ("r1", 1)
        assert await answer_of(bench, "/v2/models/b.two/infer") == ("r1", 2)


async def test_a_current_that_cannot_be_loaded_is_reported_and_the_others_serve(
    node, models, open_bench
):
    bad = node.add(lambda path: path.write_bytes(b"garbage"), deployment="bad")
    node.set_current(bad)
    torn = node.add(models.adder(5), deployment="torn")
    node.set_current(torn)
    (torn / "serving.json").unlink()
    node.set_current(node.add(models.adder(1)))
    better = node.add(models.adder(7), deployment="bad", revision="r2")
    async with open_bench() as bench:
        states = {m["deployment"]: m for m in (await listing(bench))["models"]}
        ready = await bench.client.get("/v2/health/ready")
        refused = await bench.client.post("/v2/models/bad/infer", json={"inputs": [X]})
        await bench.activate(better)
        await bench.agent.delete("/control/models/factory/torn")

        assert states["defects"]["state"] == "Ready"
        assert (states["bad"]["state"], states["bad"]["reason"]) == ("Failed", "LoadFailed")
        assert states["bad"]["revision"] == "r1"
        assert (states["torn"]["state"], states["torn"]["reason"]) == ("Failed", "InvalidOrder")
        assert ready.status_code == 503
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert await answer_of(bench, "/v2/models/bad/infer") == ("r2", 7)
        assert (await bench.client.get("/v2/health/ready")).status_code == 200


async def test_a_name_that_two_currents_want_goes_to_the_first(node, models, open_bench):
    node.set_current(node.add(models.adder(1), deployment="a", serving_name="shared"))
    node.set_current(node.add(models.adder(2), deployment="b", serving_name="shared"))
    async with open_bench() as bench:
        states = {m["deployment"]: m for m in (await listing(bench))["models"]}

        assert states["a"]["state"] == "Ready"
        assert (states["b"]["state"], states["b"]["reason"]) == ("Failed", "ServingNameTaken")
        assert await answer_of(bench, "/v2/models/shared/infer") == ("r1", 1)


async def test_a_warm_up_that_the_model_refuses_does_not_fail_the_load(node, models, open_bench):
    node.set_current(node.add(models.lookup(1)))
    async with open_bench() as bench:
        x = {"name": "i", "datatype": "INT64", "shape": [1], "data": [0]}

        assert (await bench.client.post(INFER, json={"inputs": [x]})).status_code == 200


def test_the_agent_knows_every_reason():
    reasons = {error.reason for error in errors.ControlError.__subclasses__()} - {"NotStaged"}

    assert reasons <= set(NodeReason)


def relink(directory, target):
    (directory / "model").unlink()
    (directory / "model").symlink_to(target)


def edit(directory, **fields):
    path = directory / "serving.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
