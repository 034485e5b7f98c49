"""From a source to a digest: parsed strictly, asked once, and every failure says what to do."""

import hashlib
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from linnet_operator.errors import (
    SourceMalformedError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from linnet_operator.resolve import OciSource, Resolver, pinned_digest

DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"
MANIFEST = json.dumps({"schemaVersion": 2, "layers": []}).encode()


class Registry:
    """A registry with faults: status, body and headers are what the test says."""

    def __init__(self):
        self.status, self.body, self.headers = 200, MANIFEST, {}
        self.asked = []

    async def handle(self, request):
        self.asked.append(request.path)
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@pytest.fixture
async def registry():
    return Registry()


@pytest.fixture
async def resolver(registry):
    application = web.Application()
    application.router.add_get("/{path:.*}", registry.handle)
    async with TestServer(application) as server, aiohttp.ClientSession() as session:
        mirrors = {"registry.testbed": f"http://127.0.0.1:{server.port}"}
        yield Resolver(session, mirrors=mirrors)


async def test_a_tag_is_the_digest_of_the_bytes_not_of_a_header(resolver, registry):
    registry.headers = {"Docker-Content-Digest": OTHER}

    digest = await resolver.resolve("oci://registry.testbed/models/digits:1.0")

    assert digest == f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
    assert registry.asked == ["/v2/models/digits/manifests/1.0"]


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        pytest.param(404, b"", SourceNotFoundError, "404", id="no such tag"),
        pytest.param(403, b"", SourceNotFoundError, "403", id="not ours to read"),
        pytest.param(401, b"", SourceNotFoundError, "401", id="no token to have"),
        pytest.param(500, b"", SourceUnavailableError, "500", id="the registry is ill"),
        pytest.param(302, b"", SourceUnavailableError, "302", id="a redirect is not followed"),
        pytest.param(200, b"<html>", SourceUnavailableError, "no manifest", id="a login page"),
        pytest.param(200, b"{}", SourceUnavailableError, "no manifest", id="some other JSON"),
        pytest.param(
            200, b"x" * (4 * 1024 * 1024 + 1), SourceUnavailableError, "more than", id="too large"
        ),
    ],
)
async def test_a_failure_names_host_and_status(resolver, registry, status, body, error, says):
    registry.status, registry.body = status, body

    with pytest.raises(error, match=says) as caught:
        await resolver.resolve("oci://registry.testbed/models/digits:1.0")

    assert "registry.testbed" in str(caught.value)
    assert caught.value.remedy


async def test_a_registry_that_is_down_is_named():
    async with aiohttp.ClientSession() as session:
        resolver = Resolver(session, mirrors={"registry.testbed": "http://127.0.0.1:9"})

        with pytest.raises(SourceUnavailableError, match="cannot be reached"):
            await resolver.resolve("oci://registry.testbed/models/digits:1.0")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        pytest.param("oci://r.io/a/b:1.0", ("r.io", "a/b", "1.0"), id="a tag"),
        pytest.param("oci://r.io:5000/a:1", ("r.io:5000", "a", "1"), id="a port is no tag"),
        pytest.param(f"oci://r.io/a@{DIGEST}", ("r.io", "a", DIGEST), id="a digest"),
        pytest.param(f"oci://r.io/a:1@{DIGEST}", ("r.io", "a", DIGEST), id="a digest beats a tag"),
    ],
)
def test_a_source_is_read_in_its_parts(source, parts):
    read = OciSource.parse(source)

    assert (read.host, read.name, read.reference) == parts


@pytest.mark.parametrize(
    "source",
    [
        "oci://r.io/a",
        "oci://r.io",
        "oci:///a:1",
        "oci://r.io/A:1",
        "oci://r.io/../a:1",
        "oci://r.io/a:",
        "oci://r.io/a:1 2",
        "oci://r.io/a@sha256:12",
        "https://r.io/a:1",
    ],
)
def test_what_is_no_source_is_refused(source):
    with pytest.raises(SourceMalformedError):
        OciSource.parse(source)


@pytest.mark.parametrize(
    ("source", "digest", "pinned"),
    [
        pytest.param("oci://r.io/a:1", None, None, id="a tag is not pinned"),
        pytest.param("oci://r.io/a:1", DIGEST, DIGEST, id="spec.digest pins it"),
        pytest.param(f"oci://r.io/a@{DIGEST}", None, DIGEST, id="the source pins itself"),
        pytest.param(f"oci://r.io/a@{DIGEST}", DIGEST, DIGEST, id="both agree"),
        pytest.param("https://x/m.onnx", DIGEST, DIGEST, id="https needs spec.digest"),
    ],
)
def test_a_written_digest_needs_no_registry(source, digest, pinned):
    assert pinned_digest(source, digest) == pinned


def test_two_digests_are_one_too_many():
    with pytest.raises(SourceMalformedError, match="keep one"):
        pinned_digest(f"oci://r.io/a@{DIGEST}", OTHER)
