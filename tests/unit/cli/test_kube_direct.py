"""Our own connection, against a real TLS server on this machine."""

import gzip
import http.server
import ipaddress
import json
import ssl
import threading
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from linnet_cli.errors import (
    ConflictError,
    ForbiddenError,
    KubeconfigError,
    NotFoundError,
    NotInstalledError,
    UnauthorizedError,
    UnreachableError,
)
from linnet_cli.kube.direct import DirectKube
from linnet_cli.kube.kubeconfig import Access

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AWAY = datetime(2120, 1, 1, tzinfo=UTC)
MODELS = "/apis/linnet.dev/v1alpha1/namespaces/factory/modeldeployments"


class Authority:
    """A CA that signs for 127.0.0.1 and for people."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self._sign(self.name, self.key, constraints)
        self.pem = _pem(self.certificate)

    def issue(self, name, *, address=None):
        """Return certificate and key as PEM text."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternatives = (
            [x509.IPAddress(ipaddress.ip_address(address))]
            if address
            else [x509.DNSName("person.test")]
        )
        certificate = self._sign(subject, key, x509.SubjectAlternativeName(alternatives))
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return _pem(certificate), private.decode()

    def _sign(self, subject, key, extension):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(LONG_AGO)
            .not_valid_after(FAR_AWAY)
            .add_extension(extension, critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Api(http.server.ThreadingHTTPServer):
    """Answers from a table, and remembers what was asked."""

    daemon_threads = True

    def __init__(self, tls):
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.answers, self.asked, self.people, self.hang_up = {}, [], [], False
        self.url = f"https://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.people.append((self.connection.getpeercert() or {}).get("subject"))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        code, document = self.server.answers.get(self.path.partition("?")[0], (200, {"items": []}))
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(code)
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            content = gzip.compress(content)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        # The server hangs up without a word, as an idle connection ends.
        self.close_connection = self.server.hang_up

    do_PATCH = do_POST = do_GET  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_arguments):
        """Say nothing."""


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def api(authority, tmp_path):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = tmp_path / "server.pem"
    path.write_text("".join(authority.issue("server", address="127.0.0.1")))
    tls.load_cert_chain(path)
    tls.load_verify_locations(cadata=authority.pem)
    tls.verify_mode = ssl.CERT_OPTIONAL
    server = Api(tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def kube_of(api, authority):
    opened = []

    def make(**access):
        wanted = {"ca": authority.pem, "token": "secret", **access}
        way = Access(server=api.url, namespace="factory", where=api.url, **wanted)
        opened.append(DirectKube(way, timeout_s=5))
        return opened[-1]

    yield make
    for kube in opened:
        kube.close()


def test_a_request_carries_the_token_and_the_answer_is_unpacked(api, kube_of):
    api.answers[MODELS] = (200, {"items": [{"metadata": {"name": "digits"}}]})
    kube = kube_of()

    assert kube.get(MODELS)["items"][0]["metadata"]["name"] == "digits"
    (_, _, headers, _) = api.asked[0]
    assert headers["Authorization"] == "Bearer secret"
    assert headers["User-Agent"] == "linnet-cli"
    assert kube.server_time is not None
    assert kube.server_time.tzinfo is not None


def test_a_patch_says_who_manages_the_field_and_is_strict(api, kube_of):
    kube_of().merge_patch(f"{MODELS}/digits?dryRun=All", {"spec": {}})

    (method, path, headers, body) = api.asked[0]
    assert method == "PATCH"
    assert path.endswith("?dryRun=All&fieldManager=linnet-cli&fieldValidation=Strict")
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert json.loads(body) == {"spec": {}}


def test_one_connection_serves_all_requests_and_is_opened_again_when_it_was_closed(api, kube_of):
    kube = kube_of()
    kube.get(MODELS)
    first = kube._connection.sock.getsockname()
    api.hang_up = True
    kube.get(MODELS)
    same = kube._connection.sock.getsockname()
    api.hang_up = False

    kube.get(MODELS)

    assert (same == first, len(api.asked)) == (True, 3)
    assert kube._connection.sock.getsockname() != first


@pytest.mark.parametrize(
    ("code", "document", "error", "words"),
    [
        pytest.param(
            401, {"message": "Unauthorized"}, UnauthorizedError, "does not know you", id="401"
        ),
        pytest.param(
            403, {"message": "ana cannot list"}, ForbiddenError, "ana cannot list; ask", id="403"
        ),
        pytest.param(
            404,
            b"404 page not found\n",
            NotInstalledError,
            "install Linnet's CRDs",
            id="no such kind",
        ),
        pytest.param(
            404,
            {"message": "not found", "details": {"name": "digits"}},
            NotFoundError,
            "not found",
            id="no such object",
        ),
        pytest.param(409, {"message": "modified"}, ConflictError, "modified", id="409"),
    ],
)
def test_a_refusal_becomes_its_error(api, kube_of, code, document, error, words):
    api.answers[f"{MODELS}/digits"] = (code, document)

    with pytest.raises(error, match=words):
        kube_of().get(f"{MODELS}/digits")


def test_a_client_certificate_is_shown_without_a_file(api, authority, kube_of):
    kube = kube_of(certificate="\n".join(authority.issue("ana")), token="")

    kube.get(MODELS)

    assert "Authorization" not in api.asked[0][2]
    assert api.people == [((("commonName", "ana"),),)]


def test_a_broken_certificate_is_named(kube_of):
    with pytest.raises(KubeconfigError, match="certificate or key"):
        kube_of(certificate="-----BEGIN NONSENSE-----").get(MODELS)


@pytest.mark.parametrize("server", ["https://[::", "https://hub:70000", "https://hub:x"])
def test_what_is_no_address_is_said(server):
    with pytest.raises(KubeconfigError, match=r"hub is no address of a server: "):
        DirectKube(Access(server=server, namespace="factory", where="hub"), timeout_s=1)


def test_another_ca_is_not_trusted_but_on_demand(kube_of):
    stranger = Authority()

    with pytest.raises(UnreachableError, match="is not trusted"):
        kube_of(ca=stranger.pem).get(MODELS)

    assert kube_of(ca=stranger.pem, insecure=True).get(MODELS) == {"items": []}
