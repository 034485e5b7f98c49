"""Who may ask: on loopback anybody; elsewhere a token, a certificate, or a flag says so."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import logging
import socket
import ssl

import grpc
import httpx
import pydantic
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from linnet_server import access, http1
from linnet_server.access import AccessError, TlsFiles, Tokens, is_loopback, open_access
from linnet_server.errors import UnauthorizedError
from linnet_server.inference_pb2 import ModelReadyRequest, ModelReadyResponse, ServerLiveResponse
from linnet_server.settings import read_settings

TOKEN, NEXT = "a-token-of-enough-characters", "the-token-that-comes-after-it"
X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
SERVICE = "/inference.GRPCInferenceService/"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:80", True),
        ("127.9.9.9:80", True),
        ("[::1]:80", True),
        ("localhost:80", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("10.0.0.1:80", False),
        ("localhost.example.org:80", False),
    ],
)
def test_what_is_loopback(address, expected):
    assert is_loopback(address) is expected


@pytest.mark.parametrize("where", ["http", "grpc"])
def test_the_network_needs_a_token_a_client_ca_or_a_word(where, tmp_path):
    open_to_all = {where: "0.0.0.0:8080"}
    pem = {name: tmp_path / name for name in ("tls_certificate", "tls_key")}

    for more in ({}, pem):
        with pytest.raises(pydantic.ValidationError, match="is not loopback"):
            read_settings(open_to_all | more, {})
    for more in (
        {"token_file": tmp_path / "t"},
        pem | {"tls_client_ca": tmp_path / "ca"},
        {"allow_network": True},
    ):
        assert read_settings(open_to_all | more, {})


@pytest.mark.parametrize(
    "flags", [{"tls_key": "k"}, {"tls_certificate": "c"}, {"tls_client_ca": "a"}]
)
def test_half_a_tls_is_refused(flags):
    with pytest.raises(pydantic.ValidationError, match="--tls"):
        read_settings(flags, {})


def bearer(token):
    return f"Bearer {token}".encode()


def test_any_of_the_tokens_opens(tmp_path):
    (tmp_path / "t").write_text(f"{TOKEN}\n\n{NEXT}\n")
    tokens = Tokens(tmp_path / "t")

    for given in (bearer(TOKEN), bearer(NEXT), b"bEARER  " + NEXT.encode() + b" "):
        tokens.check(given)
    for given in (None, b"", bearer(TOKEN[:-1]), TOKEN.encode(), b"Basic " + TOKEN.encode()):
        with pytest.raises(UnauthorizedError):
            tokens.check(given)


def test_tokens_change_with_their_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(access, "LOOK_AGAIN_S", 0.0)
    path = tmp_path / "t"
    path.write_text(TOKEN)
    tokens = Tokens(path)

    path.write_text(f"{NEXT}\n{NEXT}")
    tokens.check(bearer(NEXT))
    with pytest.raises(UnauthorizedError):
        tokens.check(bearer(TOKEN))

    path.unlink()
    tokens.check(bearer(NEXT))
    assert "server.tokens.unreadable" in caplog.messages


@pytest.mark.parametrize("text", ["", "short", "\n\n", "a-token-of-enough-characters\n" * 17])
def test_a_token_file_that_is_of_no_use_stops_the_start(tmp_path, text):
    (tmp_path / "t").write_text(text)
    with pytest.raises(AccessError):
        open_access(tmp_path / "t", None)


def test_files_that_are_not_there_stop_the_start(tmp_path):
    with pytest.raises(AccessError):
        open_access(tmp_path / "t", None)
    with pytest.raises(AccessError, match="/c: No such file"):
        open_access(None, TlsFiles(tmp_path / "c", tmp_path / "k", None))
    (tmp_path / "c").touch()
    with pytest.raises(AccessError, match="/k: No such file"):
        open_access(None, TlsFiles(tmp_path / "c", tmp_path / "k", None))
    (tmp_path / "k").touch()
    with pytest.raises(AccessError, match="TLS with"):
        open_access(None, TlsFiles(tmp_path / "c", tmp_path / "k", None))


@pytest.mark.slow
def test_every_path_but_health_needs_the_token(node, models, start_server, tmp_path):
    node.set_current(node.add(models.adder(1)))
    (tmp_path / "token").write_text(TOKEN)
    flags = ("--grpc", "127.0.0.1:0", "--token-file", str(tmp_path / "token"))
    server = start_server(node.root, *flags)

    with server.client() as client:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        for path in ("/v2", "/v2/models/defects", "/metrics", "/nowhere"):
            refused = client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        infer = "/v2/models/defects/infer"
        assert client.post(infer, json={"inputs": [X]}).status_code == 401
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post(infer, json={"inputs": [X]}, headers=known).status_code == 200
        assert 'outcome="rejected",revision="r1",variant="onnx"} 0.0' in (
            client.get("/metrics", headers=known).text
        ), "who is not let in asks no model"

    with grpc.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        assert ServerLiveResponse.FromString(channel.unary_unary(f"{SERVICE}ServerLive")(b"")).live
        ask = channel.unary_unary(f"{SERVICE}ModelReady")
        question = ModelReadyRequest(name="defects").SerializeToString()
        with pytest.raises(grpc.RpcError) as refused:
            ask(question)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = ask(question, metadata=[("authorization", f"Bearer {TOKEN}")])
        assert ModelReadyResponse.FromString(answer).ready


def make_certificates(place):
    """Write a CA, and a certificate for a server and for a client; return the paths' directory."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server", "client")}
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
    for name, key in keys.items():
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=36500))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        certificate = builder.sign(keys["ca"], hashes.SHA256())
        (place / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (place / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


@pytest.mark.slow
def test_a_client_needs_a_certificate_of_the_ca(node, models, start_server, tmp_path):
    node.set_current(node.add(models.adder(1)))
    make_certificates(tmp_path)
    flags = ["--grpc", "127.0.0.1:0"]
    for flag, name in (
        ("certificate", "server.pem"),
        ("key", "server.key"),
        ("client-ca", "ca.pem"),
    ):
        flags += [f"--tls-{flag}", str(tmp_path / name)]
    server = start_server(node.root, *flags)
    url = server.url.replace("http:", "https:")
    stranger = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    known = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    known.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")

    with httpx.Client(base_url=url, verify=known, timeout=20) as client:
        for _ in range(2):
            answer = client.post("/v2/models/defects/infer", json={"inputs": [X]})
            assert answer.json()["outputs"][0]["data"] == [2, 3, 4, 5]
    with (
        httpx.Client(base_url=url, verify=stranger, timeout=20) as client,
        pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)),
    ):
        client.get("/v2/health/live")
    with (
        server.client() as client,
        pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)),
    ):  # no TLS at all
        client.get("/v2/health/live")

    pems = [(tmp_path / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")]
    for credentials, is_let_in in (
        (grpc.ssl_channel_credentials(*pems), True),
        (grpc.ssl_channel_credentials(pems[0]), False),
    ):
        with grpc.secure_channel(f"127.0.0.1:{server.ports[1]}", credentials) as channel:
            ask = channel.unary_unary(f"{SERVICE}ServerLive")
            if is_let_in:
                assert ServerLiveResponse.FromString(ask(b"", timeout=20)).live
            else:
                with pytest.raises(grpc.RpcError):
                    ask(b"", timeout=20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a hello"]
)
async def test_who_never_ends_the_handshake_is_let_go(tmp_path, monkeypatch, said):
    monkeypatch.setattr(http1, "HEAD_S", 0.5)
    make_certificates(tmp_path)
    opened = open_access(
        None, TlsFiles(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    )
    sock = socket.create_server(("127.0.0.1", 0))
    listener = http1.HttpListener(
        lambda _: http1.Response(200), sock, max_body_bytes=1000, tls=opened.tls_context
    )
    await listener.start()
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    writer.write(said)
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    await listener.stop(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False], ids=["on", "off"])
def test_the_access_log_has_a_line_a_request_where_it_is_on(node, models, start_server, wanted):
    node.set_current(node.add(models.adder(1)))
    flags = ("--grpc", "127.0.0.1:0", *(("--access-log",) if wanted else ()))
    server = start_server(node.root, *flags)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    traced = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    with server.client() as client:
        answer = client.post(
            "/v2/models/defects/infer?secret=1", json={"inputs": [X]}, headers=traced
        )
        client.get("/nowhere")
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[1]}") as channel:
        ask = channel.unary_unary(f"{SERVICE}ModelReady")
        _, call = ask.with_call(
            ModelReadyRequest(name="defects").SerializeToString(), metadata=list(traced.items())
        )
    span = dict(call.trailing_metadata())["traceresponse"].split("-")
    server.process.terminate()
    lines = [json.loads(line) for line in server.process.stderr]

    requests = [line for line in lines if line["event"] == "server.request"]
    assert span[1] == trace
    if not wanted:
        assert requests == []
        return
    infer, nowhere, ready = requests
    assert infer["path"] == "/v2/models/defects/infer", "and no query"
    assert (infer["status"], infer["method"], infer["revision"]) == (200, "POST", "r1")
    assert infer["bytes_out"] == len(answer.content)
    assert infer["duration_s"] > 0
    assert infer["trace_id"] == trace
    assert infer["span_id"] == answer.headers["traceresponse"].split("-")[2]
    assert nowhere["status"] == 404
    assert "trace_id" not in nowhere
    assert (ready["method"], ready["status"], ready["span_id"]) == ("ModelReady", "OK", span[2])


def test_a_log_line_is_no_secret(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(access, "LOOK_AGAIN_S", 0.0)
    (tmp_path / "t").write_text(TOKEN)
    tokens = Tokens(tmp_path / "t")
    (tmp_path / "t").write_text("short")
    with caplog.at_level(logging.DEBUG):
        tokens.check(bearer(TOKEN))
    assert caplog.records
    assert "short" not in str([vars(record) for record in caplog.records])
