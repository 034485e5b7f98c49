"""The process as it runs on a node: start from disk, kill, stop, sockets, command line."""

import json
import resource
import signal
import socket
import stat
import subprocess
import sys

import pytest

from linnet_server.http1 import MAX_CONNECTIONS

X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}


def run_command(*flags, **env):
    command = ["env", *(f"{key}={value}" for key, value in env.items())]
    command += [sys.executable, "-m", "linnet_server", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def infer(client, name="defects", **more):
    answer = client.post(f"/v2/models/{name}/infer", json={"inputs": [X]}, **more)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return document["parameters"]["revision"], document["outputs"][0]["data"][0]


@pytest.mark.slow
def test_after_a_kill_it_serves_from_disk(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    second = node.add(models.adder(2), revision="r2")
    server = start_server(node.root)
    with server.agent() as agent:
        path = "/control/models/factory/defects"
        agent.put(f"{path}/staged", json={"path": str(second)}).raise_for_status()
        node.set_current(second)
        agent.post(f"{path}/activate", json={"revision": "r2"}).raise_for_status()

    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    again = start_server(node.root)

    with again.client() as client, again.agent() as agent:
        assert infer(client) == ("r2", 2)
        assert client.get("/v2/health/ready").status_code == 200
        assert agent.get("/control/models").json()["models"][0]["requests"] == 1


@pytest.mark.slow
def test_two_servers_with_their_own_roots_do_not_meet(node, models, start_server, tmp_path):
    node.set_current(node.add(models.adder(1)))
    other = models.NodeRoot(tmp_path / "other")
    other.set_current(other.add(models.adder(2)))

    one, two = start_server(node.root), start_server(other.root)

    with one.client() as client:
        assert infer(client) == ("r1", 1)
    with two.client() as client:
        assert infer(client) == ("r1", 2)


@pytest.mark.slow
def test_the_control_socket_is_private_and_goes_with_the_server(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root)

    mode = server.control.stat()
    assert stat.S_IMODE(mode.st_mode) == 0o600
    assert stat.S_IMODE(server.control.parent.stat().st_mode) == 0o700
    with server.client() as client:
        assert client.get("/control/models").status_code == 404

    assert server.stop() == 0
    assert not server.control.exists()


@pytest.mark.slow
def test_sigterm_lets_the_running_request_end_and_a_second_word_changes_nothing(
    node, models, start_server
):
    node.set_current(node.add(models.looper))
    server = start_server(node.root)
    body = json.dumps({"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [1]}]})
    # Some 0.5 s of work: 64 x 64 products take about 10 microseconds each.
    long = body.replace("[1]", "[50000]").encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        head = b"POST /v2/models/defects/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        connection.sendall(head % len(long) + long)
        with server.client() as client:
            # The server has read the request before: same loop, one connection after the other.
            client.get("/v2/health/live")

        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)

        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert server.process.wait(20) == 0


@pytest.mark.slow
def test_a_second_server_on_the_same_root_is_refused(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root)

    second = run_command("--root", str(node.root), "--http", "127.0.0.1:0")

    assert second.returncode == 1
    assert "another server answers" in second.stderr
    with server.client() as client:
        assert infer(client) == ("r1", 1)


@pytest.mark.slow
def test_a_bare_file_can_be_served_where_somebody_says_so(models, tmp_path, start_server):
    models.adder(4)(tmp_path / "m.onnx")

    refused = run_command("--model", f"m={tmp_path}/m.onnx")
    server = start_server(
        tmp_path / "none", "--model", f"m={tmp_path}/m.onnx", "--allow-unverified"
    )

    assert refused.returncode == 2
    assert "--allow-unverified" in refused.stderr
    assert not server.control.exists()
    with server.client() as client:
        assert infer(client, "m") == ("unverified", 4)
        assert 'revision="unverified"' in client.get("/metrics").text


@pytest.mark.slow
def test_nothing_is_written_to_the_home_directory(node, models, start_server, tmp_path):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root)
    with server.client() as client:
        infer(client)

    assert server.stop() == 0
    assert [path.name for path in (tmp_path / "server0").iterdir()] == ["port"]


@pytest.mark.slow
def test_a_truncated_request_is_answered_or_dropped_and_the_next_one_served(
    node, models, start_server
):
    node.set_current(node.add(models.adder(1)))
    server = start_server(node.root)
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /v2/models/defects/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n"
    for torn in (b"POST /v2", head, head + b'{"inputs": [', b"\x00\xff\r\n\r\n"):
        with socket.create_connection((host, int(port)), 20) as connection:
            connection.sendall(torn)

    with server.client() as client:
        assert infer(client) == ("r1", 1)
        outcomes = client.get("/metrics").text
    assert 'outcome="rejected",revision="r1",variant="onnx"} 0.0' in outcomes


@pytest.mark.slow
def test_print_config_shows_flags_over_environment_over_defaults(tmp_path):
    shown = run_command(
        *("--print-config", "--max-queue", "7"),
        LINNET_SERVER_MAX_QUEUE="9",
        LINNET_SERVER_ROOT=str(tmp_path),
    )

    settings = json.loads(shown.stdout)
    assert (settings["max_queue"], settings["root"]) == (7, str(tmp_path))
    assert settings["http"] == "127.0.0.1:8080"


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--http", "nowhere"], id="no port"),
        pytest.param(["--threads", "0"], id="no threads"),
        pytest.param(["--max-queue", "many"], id="no number"),
        pytest.param(["--model", "nopath", "--allow-unverified"], id="no path"),
        pytest.param(["--unknown"], id="unknown flag"),
    ],
)
def test_a_bad_command_line_is_a_sentence_and_exit_code_2(flags):
    done = run_command(*flags)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_address_that_is_taken_is_a_sentence_and_exit_code_1(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("--root", str(tmp_path), "--http", f"127.0.0.1:{port}")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_socket_that_a_killed_server_left_is_replaced(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    node.root.joinpath("run").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(node.root / "run" / "server.sock"))

    server = start_server(node.root)

    with server.agent() as agent:
        assert agent.get("/control/models").status_code == 200


@pytest.mark.slow
def test_help_imports_no_runtime():
    code = (
        "import sys; from linnet_server.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'onnxruntime', 'numpy', 'pydantic', 'grpc'} & set(sys.modules)\n"
        "sys.exit(1 if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--http", "--grpc"])
def test_a_port_that_is_taken_is_said(flag, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = {"--http": "127.0.0.1:0", flag: address}
        words = [word for pair in flags.items() for word in pair]
        found = run_command("--root", str(tmp_path), *words)
    assert found.returncode == 1
    assert f"cannot listen on {address}" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--http", "--grpc"])
def test_a_host_that_is_not_found_is_said(flag, tmp_path):
    address = "nowhere.invalid:0"
    flags = {"--http": "127.0.0.1:0", flag: address}
    words = [word for pair in flags.items() for word in pair]

    found = run_command("--root", str(tmp_path), "--allow-network", *words)

    assert found.returncode == 1
    assert f"cannot listen on {address}" in found.stderr
    assert "name" in found.stderr.lower()
    assert "taken" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LINNET_SERVER_DRAIN_S", "inf"),
        ("LINNET_SERVER_HTTP", "a..b:80"),
        ("LINNET_SERVER_OTLP_ENDPOINT", "file:///etc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "file:///etc"),
    ],
)
def test_a_variable_that_is_wrong_is_named(name, value):
    found = run_command(**{name: value})

    assert found.returncode == 2
    assert found.stderr.startswith(f"linnet-server: {name}: ")


@pytest.mark.slow
def test_a_flag_is_written_out(tmp_path):
    found = run_command("--root", str(tmp_path), "--max-queu", "3")

    assert found.returncode == 2
    assert "--max-queu" in found.stderr


@pytest.mark.slow
def test_a_run_that_never_ends_does_not_hold_up_the_loop(node, models, start_server):
    """The warm-up was short, with as many elements: how long it takes hangs on the value."""
    node.set_current(node.add(models.looper))
    server = start_server(node.root, "--deadline-s", "0.5")
    n = {"name": "n", "datatype": "INT64", "shape": [], "data": [2**40]}
    with server.client() as client:
        answer = client.post("/v2/models/defects/infer", json={"inputs": [n]})
        assert answer.status_code == 504, answer.text
        n["data"] = [1]
        assert client.post("/v2/models/defects/infer", json={"inputs": [n]}).status_code == 200


@pytest.mark.slow
def test_as_many_connections_can_be_open_as_are_taken(node, models, start_server):
    node.set_current(node.add(models.adder(1)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start_server(node.root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    there, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)

    assert there == hard or there >= 2 * MAX_CONNECTIONS
