"""Bare models, without an agent: what is served, what is said where it cannot be, how it ends."""

import re
import subprocess
import sys

import pytest

from linnet_server.standalone import ModelPathError, find_models, find_onnx

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}


def run_command(*flags):
    command = [sys.executable, "-m", "linnet_server", "--http", "127.0.0.1:0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def touch(directory, *names):
    for name in names:
        (directory / name).touch()
    return directory


@pytest.mark.parametrize(
    ("names", "found"),
    [
        pytest.param(["any.onnx"], "any.onnx", id="the only one"),
        pytest.param(["a.onnx", "model.onnx"], "model.onnx", id="the one of that name"),
        pytest.param(["a.onnx", "a.onnx.data", "readme"], "a.onnx", id="beside its data"),
    ],
)
def test_a_directory_has_one_model(tmp_path, names, found):
    assert find_onnx(touch(tmp_path, *names)) == tmp_path / found


@pytest.mark.parametrize(
    ("path", "words"),
    [
        pytest.param("", "has 2 .onnx files, and none is model.onnx", id="nobody can tell which"),
        pytest.param("empty", "has no .onnx file: name the file", id="an empty directory"),
        pytest.param("nowhere", "--model takes NAME=PATH of a file or directory", id="not there"),
        pytest.param("text", "is no .onnx file", id="something else"),
    ],
)
def test_a_path_without_a_model_is_said(tmp_path, path, words):
    touch(tmp_path, "a.onnx", "b.onnx", "text")
    (tmp_path / "empty").mkdir()

    with pytest.raises(ModelPathError, match=words):
        find_onnx(tmp_path / path)


@pytest.mark.parametrize("name", ["a/b", "a b", "", "ä"])
def test_a_name_that_no_url_can_carry_is_said(tmp_path, name):
    touch(tmp_path, "a.onnx")

    with pytest.raises(ModelPathError, match="cannot be named"):
        find_models({name: tmp_path}, variant="onnx", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        pytest.param(["--model", "a={0}"], 2, "needs --allow-unverified", id="nobody said so"),
        pytest.param(["--model", "a={0}", "--model", "a={0}"], 2, "'a' twice", id="twice"),
        pytest.param(["--grpc", "nonsense"], 2, "--grpc: takes HOST:PORT", id="no address"),
        pytest.param(["--threads", "0"], 2, "--threads: Input should be", id="out of bounds"),
        pytest.param(["--model", "a={0}/nowhere"], 1, "is not there", id="not there"),
        pytest.param(["--model", "a={0}/bad.onnx"], 1, "model 'a': .*Protobuf", id="garbage"),
        pytest.param(
            ["--model", "a={0}/m.onnx", "--model", "b={0}/bad.onnx"],
            1,
            "model 'b'",
            id="one of two",
        ),
        pytest.param(
            ["--model", "a={0}/m.onnx", "--model", "unverified.a={0}/m.onnx"],
            1,
            "model 'unverified.a': ",
            id="the long name of another",
        ),
        pytest.param(
            ["--model", "a={0}/m.onnx", "--max-memory-bytes", str(64 << 20)],
            1,
            "model 'a': .*thread",
            id="not even memory for a thread",
        ),
        pytest.param(
            ["--model", "a={0}/m.onnx", "--variant", "openvino"],
            1,
            "names no runtime of this server .onnx, onnx-cuda, onnx-tensorrt, tensorrt",
            id="another runtime",
        ),
    ],
)
def test_what_cannot_be_served_is_a_sentence(models, tmp_path, flags, code, words):
    models.adder(1)(tmp_path / "m.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    allow = [] if "needs" in words else ["--allow-unverified"]

    done = run_command(*(flag.format(tmp_path) for flag in flags), *allow)

    assert done.returncode == code
    assert re.match(f"linnet-server: .*{words}", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_several_models_over_both_protocols_and_the_metrics_say_unverified(
    models, tmp_path, start_server
):
    (tmp_path / "two").mkdir()
    models.adder(1)(tmp_path / "one.onnx")
    models.adder(2)(tmp_path / "two" / "any.onnx")

    server = start_server(
        tmp_path / "none",
        *("--model", f"one={tmp_path}/one.onnx", "--model", f"two={tmp_path}/two"),
        *("--allow-unverified", "--grpc", "127.0.0.1:0"),
    )

    assert len(server.ports) == 2
    with server.client() as client:
        answers = [
            client.post(f"/v2/models/{name}/infer", json={"inputs": [X]}).json()
            for name in ("one", "two")
        ]
        metrics = client.get("/metrics").text
    assert [answer["outputs"][0]["data"][0] for answer in answers] == [1, 2]
    assert {answer["parameters"]["model_digest"] for answer in answers} == {"unverified"}
    info = [line for line in metrics.splitlines() if line.startswith("linnet_model_info{")]
    assert len(info) == 2
    assert all('digest="unverified"' in line and 'revision="unverified"' in line for line in info)
    assert server.stop() == 0


@pytest.mark.slow
def test_files_of_another_program_are_not_loaded(node, models, start_server):
    node.set_current(
        node.add(
            lambda path: path.write_bytes(b"weights"),
            deployment="files",
            file="weights.bin",
            runtime="Files",
        )
    )
    node.set_current(node.add(models.adder(1)))

    server = start_server(node.root)

    with server.client() as client, server.agent() as agent:
        assert client.get("/v2/health/ready").status_code == 200
        assert [m["deployment"] for m in agent.get("/control/models").json()["models"]] == [
            "defects"
        ]
        assert client.get("/v2/models/files/ready").status_code == 404
