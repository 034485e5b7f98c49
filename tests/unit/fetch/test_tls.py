"""Registries over https: who they are is checked, and what is encrypted stays so."""

import asyncio
import contextlib
import datetime as dt
import hashlib
import ipaddress
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from linnet_agent.errors import RegistryUnavailableError, SourceNotFoundError
from linnet_agent.fetch.oci import OciClient, Retry
from linnet_agent.fetch.transport import Limits, TransientError, Transport

SOURCE = "oci://registry.testbed/models/digits:1.0"
WEIGHTS = bytes(range(251)) * 10_000
BLOB = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()
QUICK = Retry(attempts=2, first_s=0.001, cap_s=0.002)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry")])
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
async def registry(make_registry, certificate):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    made = make_registry()
    await made.start(server)
    yield made
    await made.stop()


@pytest.fixture
def trusting(certificate):
    return ssl.create_default_context(cafile=certificate)


@pytest.fixture
async def client(registry, trusting):
    mirrors = {"registry.testbed": registry.url}
    async with OciClient(mirrors=mirrors, retry=QUICK, tls=trusting) as made:
        yield made


async def test_a_model_is_fetched_over_https(registry, client, tmp_path):
    artifact = await client.fetch_artifact(SOURCE, registry.publish())
    await client.fetch_layers(artifact, into=tmp_path / "staging")

    assert (tmp_path / "staging" / "model.onnx").read_bytes() == WEIGHTS
    assert registry.connections < len(registry.requests)


async def test_a_registry_that_nobody_vouches_for_is_not_spoken_to(registry, tls):
    mirrors = {"registry.testbed": registry.url}
    async with OciClient(mirrors=mirrors, retry=QUICK, tls=tls) as client:
        with pytest.raises(RegistryUnavailableError, match="certificate verify failed"):
            await client.resolve(SOURCE)

    assert not registry.requests


async def test_a_registry_with_another_name_is_not_spoken_to(registry, trusting):
    async def everywhere(_host, port):
        return [(socket.AF_INET, "127.0.0.1", port)]

    transport = Transport(tls=trusting, resolve=everywhere)
    with pytest.raises(TransientError, match="Hostname mismatch"):
        await transport.send(
            registry.url.replace("127.0.0.1", "registry.example"), receive=lambda answer: answer
        )
    await transport.aclose()

    assert not registry.requests


async def test_a_redirect_to_plain_http_is_refused(registry, client, tmp_path, answer):
    artifact = await client.fetch_artifact(SOURCE, registry.publish())
    plain = {"Location": registry.url.replace("https", "http") + "/x"}
    registry.fail(BLOB, lambda *_: answer(307, headers=plain))

    with pytest.raises(SourceNotFoundError, match="refused"):
        await client.fetch_layers(artifact, into=tmp_path / "staging")


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [0, 1, 16_384, 600_000, 1_200_000, 2_000_000])
async def test_what_was_cancelled_leaves_nothing_but_the_files_own_bytes(
    registry, client, tmp_path, stop_at
):
    """Shutting the socket under a reader must not let it read what is still encrypted."""
    artifact = await client.fetch_artifact(SOURCE, registry.publish())
    file = tmp_path / "staging" / "model.onnx"
    reached = asyncio.Event()

    def note(have, _total):
        if have >= stop_at:
            reached.set()

    fetching = asyncio.ensure_future(
        client.fetch_layers(artifact, into=tmp_path / "staging", on_progress=note)
    )
    await asyncio.wait_for(reached.wait(), 30)
    fetching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await fetching

    left = file.read_bytes() if file.exists() else b""
    assert left == WEIGHTS[: len(left)]
    await client.fetch_layers(artifact, into=tmp_path / "staging")
    assert file.read_bytes() == WEIGHTS


@pytest.fixture
async def speechless():
    """A server that accepts, and drips what begins like a handshake, or says nothing."""
    drip = asyncio.Event()
    tasks = set()

    async def serve(_reader, writer):
        tasks.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(b"\x16\x03\x03\x40\x00" if drip.is_set() else b"")
                while True:
                    writer.write(b"\x02" if drip.is_set() else b"")
                    await writer.drain()
                    await asyncio.sleep(0.02)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], drip
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_cancelled_handshake_ends_at_once(speechless, trusting):
    port, _ = speechless
    transport = Transport(tls=trusting, limits=Limits(connect_s=60.0))
    begun = asyncio.Event()
    sending = asyncio.ensure_future(
        transport.send(f"https://127.0.0.1:{port}", receive=lambda answer: answer, pulse=begun.set)
    )
    await asyncio.wait_for(begun.wait(), 10)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sending, 10)
    await transport.aclose()


@pytest.mark.slow
async def test_a_handshake_that_drips_is_given_up(speechless, trusting):
    port, drip = speechless
    drip.set()
    transport = Transport(tls=trusting, limits=Limits(connect_s=0.2))
    with pytest.raises(TransientError):
        await asyncio.wait_for(
            transport.send(f"https://127.0.0.1:{port}", receive=lambda answer: answer), 30
        )
    await transport.aclose()
