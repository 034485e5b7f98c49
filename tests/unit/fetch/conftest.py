"""A registry that keeps the protocol as far as publishers and nodes use it, and fails on demand."""

import asyncio
import contextlib
import hashlib
import json
import re
import ssl
from collections import deque
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from linnet_agent.fetch.oci import OciClient, Retry
from linnet_cli.publish.statement import build_bundle, build_statement

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
REPOSITORY = "models/digits"
WEIGHTS = bytes(range(251)) * 10_000
IMPATIENT = Retry(attempts=4, first_s=0.001, cap_s=0.002, connect_s=2.0, read_s=2.0)


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass
class Request:
    method: str
    path: str
    query: dict
    headers: dict
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict | None = None
    cut: int | None = None
    """Close after so many bytes of the body."""
    length: bool = True


class FakeRegistry:
    def __init__(self):
        self.blobs = {}
        self.manifests = {}
        self.requests = []
        self.faults = deque()
        self.referrers_api = False
        self.filters = False
        self.page_size = 100
        self.ranges = True
        self.token = None
        self.connections = 0
        self.url = ""
        self._writers = set()

    async def start(self, tls=None):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    async def stop(self):
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()

    def fail(self, part, fault, *, times=1):
        """Answer the next requests whose path contains ``part`` by ``fault(request, answer)``."""
        self.faults.extend([(part, fault)] * times)

    def asked(self, part):
        return [request for request in self.requests if part in request.path]

    def put_manifest(self, repository, document, *, tag=None):
        content = json.dumps(document).encode()
        for version in (digest_of(content), tag):
            if version:
                self.manifests[repository, version] = (document["mediaType"], content)
        return digest_of(content)

    def layer(self, name, content, **change):
        return {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": digest_of(content),
            "size": len(content),
            "annotations": {"org.cncf.model.filepath": name},
            **change,
        }

    def publish(self, *, layers=None):
        """Put a model there, tagged 1.0; return its digest."""
        files = {"golden.json": b"{}", "model.onnx": WEIGHTS}
        self.blobs |= {digest_of(content): content for content in files.values()}
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "layers": layers or [self.layer(name, content) for name, content in files.items()],
        }
        return self.put_manifest(REPOSITORY, document, tag="1.0")

    def attach(self, subject, bundle, **change):
        """Attach a bundle to a digest; return the digest of the bundle's manifest."""
        self.blobs[digest_of(bundle)] = bundle
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": BUNDLE,
            "layers": [{"mediaType": BUNDLE, "digest": digest_of(bundle), "size": len(bundle)}],
            "subject": {"digest": subject},
            **change,
        }
        return self.put_manifest(REPOSITORY, document)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            keep = True
            while keep:
                request = await self._read(reader)
                self.requests.append(request)
                answer = self._answer(request)
                for fault in list(self.faults):
                    if fault[0] in request.path:
                        self.faults.remove(fault)
                        answer = fault[1](request, answer)
                        break
                if answer is not None:
                    await self._write(writer, request, answer)
                keep = answer is not None and answer.length and answer.cut is None
        self._writers.discard(writer)
        writer.close()

    async def _read(self, reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        raw = dict(line.split(": ", 1) for line in head[1:] if line)
        if "Authorization" in raw:
            headers["authorization"] = raw["Authorization"]
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        return Request(method, unquote(parts.path), parse_qs(parts.query), headers, body)

    async def _write(self, writer, request, answer):
        headers = dict(answer.headers or {})
        if answer.length:
            headers.setdefault("Content-Length", str(len(answer.body)))
        else:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {answer.status} x", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if request.method != "HEAD":
            writer.write(answer.body[: answer.cut])
        await writer.drain()

    def _answer(self, request):
        if request.path == "/token":
            return Answer(body=json.dumps({"token": self.token}).encode())
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.url}/token",service="fake"'
            return Answer(401, headers={"WWW-Authenticate": challenge})
        _, _, rest = request.path.partition("/v2/")
        for kind in ("manifests", "blobs", "referrers"):
            repository, found, version = rest.partition(f"/{kind}/")
            if found:
                return getattr(self, f"_{kind}")(request, repository, version)
        return Answer(404)

    def _manifests(self, request, repository, version):
        if request.method == "PUT":
            kind = request.headers["content-type"]
            for name in {version, digest_of(request.body)}:
                self.manifests[repository, name] = (kind, request.body)
            kept = self.referrers_api and b'"subject"' in request.body
            return Answer(201, headers={"OCI-Subject": "kept"} if kept else None)
        if (repository, version) not in self.manifests:
            return Answer(404)
        kind, content = self.manifests[repository, version]
        return Answer(body=content, headers={"Content-Type": kind})

    def _blobs(self, request, repository, version):
        if request.method == "POST":
            return Answer(202, headers={"Location": f"/v2/{repository}/blobs/uploads/1?state=x"})
        if request.method == "PUT":
            (digest,) = request.query["digest"]
            if digest != digest_of(request.body):
                return Answer(400)
            self.blobs[digest] = request.body
            return Answer(201)
        if version not in self.blobs:
            return Answer(404)
        content = self.blobs[version]
        if self.ranges and (wanted := request.headers.get("range")):
            closed = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
            if closed is None or int(closed[1]) > int(closed[2]) or int(closed[2]) >= len(content):
                return Answer(416)
            start, last = int(closed[1]), int(closed[2])
            return Answer(
                206,
                body=content[start : last + 1],
                headers={"Content-Range": f"bytes {start}-{last}/{len(content)}"},
            )
        return Answer(body=content)

    def _referrers(self, request, repository, version):
        """Keep to the distribution spec 1.1: a digest, pages, and a filter that is said."""
        if not self.referrers_api:
            return Answer(404)
        if not re.fullmatch("sha256:[0-9a-f]{64}", version):
            return Answer(400)
        (wanted,) = request.query.get("artifactType", [None])
        listed = [
            {
                "mediaType": kind,
                "digest": name,
                "size": len(content),
                "artifactType": json.loads(content)["artifactType"],
            }
            for (place, name), (kind, content) in self.manifests.items()
            if place == repository
            and name == digest_of(content)
            and json.loads(content).get("subject", {}).get("digest") == version
            and (not self.filters or wanted in {None, json.loads(content)["artifactType"]})
        ]
        start = int(request.query.get("from", ["0"])[0])
        page = listed[start : start + self.page_size]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": page}
        headers = {"Content-Type": INDEX}
        rest = f"from={start + self.page_size}"
        if self.filters and wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
            rest += f"&artifactType={quote(wanted, safe='')}"
        if start + self.page_size < len(listed):
            link = f"/v2/{repository}/referrers/{version}?{rest}"
            headers["Link"] = f'<{link}>; rel="next"'
        return Answer(body=json.dumps(index).encode(), headers=headers)


@pytest.fixture
async def registry():
    fake = FakeRegistry()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def registry_url(registry):
    return registry.url


@pytest.fixture(scope="session")
def tls():
    return ssl.create_default_context()  # reading the roots takes longer than most tests


@pytest.fixture
async def client(registry_url, tls):
    mirrors = {"registry.testbed": registry_url}
    async with OciClient(mirrors=mirrors, retry=IMPATIENT, tls=tls) as made:
        yield made


@pytest.fixture(scope="session")
def answer():
    return Answer


@pytest.fixture(scope="session")
def make_registry():
    return FakeRegistry


class FakeWeb(FakeRegistry):
    """A web server over a directory; fails on demand like the registry."""

    def __init__(self, root):
        super().__init__()
        self.root = root

    def _answer(self, request):
        path = self.root / request.path.lstrip("/")
        if not path.is_file():
            return Answer(404)
        content = path.read_bytes()
        if not (self.ranges and "range" in request.headers):
            return Answer(body=content)
        start, last = (int(end) for end in request.headers["range"][6:].split("-"))
        if start >= len(content):
            return Answer(416, headers={"Content-Range": f"bytes */{len(content)}"})
        part = content[start : last + 1]
        where = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return Answer(206, body=part, headers={"Content-Range": where})


@pytest.fixture
def media(tmp_path):
    path = tmp_path / "media"
    path.mkdir()
    return path


@pytest.fixture
async def web(media):
    fake = FakeWeb(media)
    await fake.start()
    yield fake
    await fake.stop()


class Lay:
    """Lays models out in directories."""

    FILES = {"model.onnx": b"weights" * 1000, "tokens/vocab.txt": b"a b c", "empty": b""}  # noqa: RUF012 - read only

    digest = staticmethod(digest_of)

    def digests(self, files):
        return {name: digest_of(content) for name, content in files.items()}

    def manifest(self, files):
        layers = [
            {
                "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                "digest": digest_of(content),
                "size": len(content),
                "annotations": {"org.cncf.model.filepath": name},
            }
            for name, content in files.items()
        ]
        kinds = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        }
        return json.dumps({**kinds, "layers": layers}).encode()

    def signed(self, files):
        payload = build_statement(self.digests(files), model="factory/digits", counter=1)
        return payload, build_bundle(payload, signature=b"not looked at here", key_id="0" * 64)

    def put(self, directory, files):
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def put_variants(self, directory, names):
        entries = []
        for name in names:
            manifest = self.manifest({"model.onnx": name.encode()})
            place = directory / digest_of(manifest).replace(":", "-")
            self.put(place, {"model.onnx": name.encode(), "manifest.json": manifest})
            self.put(place, {"model.sig": b"below"})
            entries.append(
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": digest_of(manifest),
                    "size": len(manifest),
                    "annotations": {"linnet.dev/variant": name},
                }
            )
        index = {"mediaType": INDEX, "manifests": entries}
        self.put(directory, {"manifest.json": json.dumps(index).encode(), "model.sig": b"above"})


@pytest.fixture(scope="session")
def lay():
    return Lay()


@pytest.fixture
async def artifact(registry, client):
    return await client.fetch_artifact(
        f"oci://registry.testbed/{REPOSITORY}:1.0", registry.publish()
    )


@pytest.fixture
def staging(tmp_path):
    return tmp_path / "staging"
