"""Credentials of a metrics source, against servers that really ask for them."""

import ipaddress
import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from linnet_operator.credentials import Credentials, CredentialsError
from linnet_operator.prometheus import PrometheusSource

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EMPTY = '{"status":"success","data":{"resultType":"vector","result":[]}}'


def certificate(name, *, by=None):
    """Return (certificate, key) as PEM; signed by itself where ``by`` is None."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer, issuer = by or (key, name)
    now = datetime.now(UTC)  # noqa: TID251 - the handshake looks at the real clock
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return made.public_bytes(Encoding.PEM), private, key


@pytest.fixture
def secret(tmp_path):
    """Write the files of a mounted Secret; None takes one away."""
    directory = tmp_path / "secret"
    directory.mkdir()

    def write(**files):
        for name, text in files.items():
            path = directory / name.replace("_", ".")
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Credentials(directory)

    return write


@pytest.fixture
async def serve():
    """Start a server; it answers 401 where ``wanted`` is not the Authorization header."""
    runners = []

    async def start(wanted=None, tls=None):
        async def answer(request):
            if wanted is not None and request.headers.get("Authorization") != wanted:
                return web.Response(status=401, text="who are you?")
            return web.Response(text=EMPTY)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        scheme = "https" if tls else "http"
        return f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def problem(url, credentials=None):
    """Return what one query has to complain about."""
    async with PrometheusSource(
        url, timeout=timedelta(seconds=10), credentials=credentials
    ) as source:
        return (await source.samples("up", [NOON])).no_data


async def test_a_bearer_token_is_sent_and_read_again_when_it_is_rotated(serve, secret):
    first, second = "one\n", "two\n"
    url = await serve(wanted=f"Bearer {second.strip()}")
    credentials = secret(token=first)

    before = await problem(url, credentials)
    secret(token=second)
    after = await problem(url, credentials)

    assert "answered 401; check the credentials" in before
    assert "one" not in before.replace(url, "")
    assert after == ""


async def test_user_and_password_are_sent(serve, secret):
    user, word = "ana", "säsam:e"
    url = await serve(wanted="Basic YW5hOnPDpHNhbTpl")

    assert await problem(url, secret(username=user, password=word)) == ""
    assert "answered 401" in await problem(url)


@pytest.mark.slow
async def test_a_client_certificate_is_shown_and_the_server_is_verified(serve, secret, tmp_path):
    ca, _, signer = certificate("ca")
    crt, key, _ = certificate("server", by=(signer, "ca"))
    (tmp_path / "server.pem").write_bytes(crt + key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca.decode())
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(tmp_path / "server.pem")
    url = await serve(tls=tls)
    crt, key, _ = certificate("client", by=(signer, "ca"))
    mine = {"tls_crt": crt, "tls_key": key}

    unverified = await problem(url, secret(**mine))
    shown = await problem(url, secret(**mine, ca_crt=ca))
    unknown = await problem(url, secret(ca_crt=ca, tls_crt=None, tls_key=None))

    assert "cannot be reached (ClientConnectorCertificateError)" in unverified
    assert shown == ""
    assert "cannot be reached" in unknown
    assert "and the certificates on both sides" in unknown


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"username": "ana"}, "username and password belong together"),
        ({"password": "secret"}, "username and password belong together"),
        ({"username": "a:b", "password": "secret"}, "username holds a colon"),
        ({"username": "ana", "token": "t"}, "keep one of them"),
        ({"token": ""}, "is empty, too long, or has more than one line"),
        ({"token": "a\nb"}, "is empty, too long, or has more than one line"),
        ({"token": b"\xff"}, "is no text"),
        ({"tls_crt": "x"}, "belong together"),
        ({"tls_crt": "x", "tls_key": "y"}, "cannot be used (SSLError)"),
        ({"ca_crt": "secret"}, "cannot be used (SSLError)"),
    ],
)
async def test_what_cannot_be_used_names_the_file_and_asks_nobody(secret, files, says):
    credentials = secret(**files)

    said = await problem("https://127.0.0.1:9", credentials)

    assert "was not asked" in said
    assert says in said
    assert "secret" not in said.replace("/secret", "")


async def test_a_secret_that_is_not_mounted_is_said_and_nothing_is_sent_without_it(tmp_path):
    said = await problem("http://127.0.0.1:9", Credentials(tmp_path / "far"))

    assert f"was not asked: {tmp_path / 'far'} is no directory; mount the Secret there" in said


async def test_two_credentials_for_one_request_are_a_sentence(secret):
    """aiohttp refuses it with a ValueError; it would end the look."""
    files = {"token": "t"}

    said = await problem("http://ana:hidden@127.0.0.1:9", secret(**files))

    assert "cannot be reached (ValueError)" in said
    assert "hidden" not in said


@pytest.mark.slow
def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(secret):
    """OpenSSL would ask at the terminal, and the operator stand still."""
    crt, _, key = certificate("client")
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"word")
    )
    secret(tls_crt=crt, tls_key=locked)
    program = (
        "import pathlib, sys; from linnet_operator.credentials import Credentials;"
        "Credentials(pathlib.Path(sys.argv[1])).tls()"
    )
    ours, terminal = os.openpty()

    done = subprocess.run(
        [sys.executable, "-c", program, secret()._directory],
        stdin=terminal,
        capture_output=True,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(terminal)

    assert b"tls.key cannot be used (SSLError)" in done.stderr


def test_an_empty_directory_is_no_credentials(secret):
    assert secret().headers() == {}


def test_a_context_is_made_anew_only_when_a_file_changes(secret):
    credentials = secret(ca_crt=certificate("ca")[0])

    first = credentials.tls()

    assert credentials.tls() is first
    secret(ca_crt="broken")
    with pytest.raises(CredentialsError):
        credentials.tls()


def test_credentials_are_read_from_a_secret_as_kubelet_mounts_it(tmp_path):
    """Files are links into a directory that is swapped as a whole."""
    mount = tmp_path / "far"
    mount.mkdir()

    def put(version, token):
        (mount / version).mkdir()
        (mount / version / "token").write_text(token)
        (mount / "..data_tmp").symlink_to(version)
        (mount / "..data_tmp").replace(mount / "..data")

    put("..2026_11_21_01", "old\n")
    (mount / "token").symlink_to("..data/token")
    credentials = Credentials(mount)
    before = credentials.headers()
    put("..2026_11_21_02", "new")

    assert before == {"Authorization": "Bearer old"}
    assert credentials.headers() == {"Authorization": "Bearer new"}
