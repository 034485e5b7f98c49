"""The repository extension on the control socket: what is here, load it, unload it, no files."""

import pytest

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}
ROOT = "/v2/repository"


async def first_output(bench):
    answer = await bench.client.post("/v2/models/defects/infer", json={"inputs": [X]})
    return answer.status_code, answer.json().get("outputs", [{"data": None}])[0]["data"]


async def index(bench, **asked):
    answer = await bench.agent.post(f"{ROOT}/index", json=asked)
    assert answer.status_code == 200, answer.text
    return [(model["name"], model["version"], model["state"]) for model in answer.json()]


async def test_unload_takes_a_model_out_and_load_brings_it_back(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    node.set_current(node.add(models.adder(2), deployment="other"))
    async with open_bench() as bench:
        both = [("defects", "r1", "READY"), ("other", "r1", "READY")]
        assert await index(bench) == both

        gone = await bench.agent.post(
            f"{ROOT}/models/defects/unload", json={"parameters": {"unload_dependents": False}}
        )

        assert gone.status_code == 200
        assert (await first_output(bench))[0] == 404
        assert await index(bench) == [("defects", "r1", "UNAVAILABLE"), ("other", "r1", "READY")]
        assert await index(bench, ready=True) == [("other", "r1", "READY")]

        assert (await bench.agent.post(f"{ROOT}/models/defects/load")).status_code == 200
        assert await first_output(bench) == (200, [1, 1, 1, 1])
        assert await index(bench) == both


async def test_what_a_program_of_the_users_own_has_is_not_the_servers(node, models, open_bench):
    node.set_current(node.add(models.adder(1), runtime="Files"))
    async with open_bench() as bench:
        answer = await bench.agent.post(f"{ROOT}/models/defects/load", json={})

        assert answer.status_code == 404
        assert await index(bench) == []


async def test_load_of_what_serves_takes_what_current_names_now(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    async with open_bench() as bench:
        node.set_current(node.add(models.adder(2), revision="r2"))

        answer = await bench.agent.post(f"{ROOT}/models/factory.defects/load", json={})

        assert answer.status_code == 200, answer.text
        assert await first_output(bench) == (200, [2, 2, 2, 2])


async def test_a_load_that_fails_leaves_what_serves(node, models, open_bench):
    node.set_current(node.add(models.adder(1)))
    async with open_bench() as bench:
        node.set_current(node.add(lambda path: path.write_bytes(b"junk"), revision="r2"))

        answer = await bench.agent.post(f"{ROOT}/models/defects/load", json={})

        assert answer.status_code == 422
        assert answer.json()["reason"] == "LoadFailed"
        assert await first_output(bench) == (200, [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("models/cats/load", {}, 404, id="unknown"),
        pytest.param("models/cats/unload", {}, 404, id="unknown, unload"),
        pytest.param("models/..%2f..%2fetc%2fpasswd/load", {}, 404, id="a path for a name"),
        pytest.param("models/defects/reload", {}, 404, id="no such order"),
        pytest.param("models/defects/load", {"parameters": {"config": "{}"}}, 400, id="config"),
        pytest.param(
            "models/defects/load", {"parameters": {"file:1/m.onnx": "AA=="}}, 400, id="a file"
        ),
        pytest.param("models/defects/load", {"parameters": [1]}, 400, id="no parameters at all"),
    ],
)
async def test_a_request_chooses_no_file_and_no_configuration(
    node, models, open_bench, path, body, status
):
    node.set_current(node.add(models.adder(1)))
    async with open_bench() as bench:
        answer = await bench.agent.post(f"{ROOT}/{path}", json=body)

        assert answer.status_code == status, answer.text
        assert await first_output(bench) == (200, [1, 1, 1, 1])


@pytest.mark.parametrize("order", ["index", "models/defects/load", "models/defects/unload"])
async def test_it_is_not_on_the_network(node, models, open_bench, order):
    node.set_current(node.add(models.adder(1)))
    async with open_bench() as bench:
        assert (await bench.client.post(f"{ROOT}/{order}", json={})).status_code == 404
        assert await first_output(bench) == (200, [1, 1, 1, 1])


@pytest.mark.slow
def test_bare_files_are_loaded_again_from_where_they_were_named(models, tmp_path, start_server):
    path = tmp_path / "m.onnx"
    models.adder(1)(path)
    flags = ("--model", f"m={path}", "--allow-unverified", "--control", str(tmp_path / "sock"))
    server = start_server(tmp_path / "none", *flags)
    server.control = tmp_path / "sock"
    with server.client() as client, server.agent() as agent:
        path.unlink()  # never over a file that is in use
        models.adder(2)(path)
        agent.post(f"{ROOT}/models/m/load", json={}).raise_for_status()
        answer = client.post("/v2/models/m/versions/1/infer", json={"inputs": [X]})
        assert answer.json()["outputs"][0]["data"] == [2, 2, 2, 2]
