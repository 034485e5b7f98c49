"""From a source to a digest: parsed strictly, asked once, and every failure says what to do."""

import hashlib
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from linnet_operator.errors import (
    SourceNotFoundError,
    SourceUnavailableError,
)
from linnet_operator.resolve import Resolver

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
        pytest.param(200, b"[" * 10**6, SourceUnavailableError, "no manifest", id="too deep"),
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


class TokenService:
    """A session whose token service answers 200 and no JSON; all else is the registry's."""

    def __init__(self, session, page):
        self._session, self._page = session, page

    def get(self, url, **how):
        url = self._page if str(url).startswith("https://tokens.") else url
        return self._session.get(url, **how)


@pytest.mark.parametrize("page", [b"<html>log in</html>", b"[" * 10**6], ids=["login", "too deep"])
async def test_a_token_service_that_answers_anything_is_a_failure_and_no_end(registry, page):
    registry.status = 401
    registry.headers = {"WWW-Authenticate": 'Bearer realm="https://tokens.test/",service="r"'}
    application, tokens = web.Application(), web.Application()
    application.router.add_get("/{path:.*}", registry.handle)

    async def answer(_request):
        return web.Response(body=page)

    tokens.router.add_get("/{path:.*}", answer)
    async with (
        TestServer(application) as server,
        TestServer(tokens) as other,
        aiohttp.ClientSession() as session,
    ):
        resolver = Resolver(
            TokenService(session, f"http://127.0.0.1:{other.port}/"),
            mirrors={"registry.testbed": f"http://127.0.0.1:{server.port}"},
        )

        with pytest.raises(SourceUnavailableError, match=r"registry.testbed"):
            await resolver.resolve("oci://registry.testbed/models/digits:1.0")


async def test_a_registry_that_is_down_is_named():
    async with aiohttp.ClientSession() as session:
        resolver = Resolver(session, mirrors={"registry.testbed": "http://127.0.0.1:9"})

        with pytest.raises(SourceUnavailableError, match="cannot be reached"):
            await resolver.resolve("oci://registry.testbed/models/digits:1.0")
