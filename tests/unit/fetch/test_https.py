"""Models from a web server that promises nothing: ranges, sizes, statuses."""

import asyncio

import pytest

from linnet_agent.errors import (
    RegistryUnavailableError,
    SourceNotFoundError,
    UnsupportedArtifactError,
)
from linnet_agent.fetch.https import HttpsClient
from linnet_agent.fetch.oci import Retry
from linnet_agent.verify.directory import hash_directory

SOURCE = "https://models.testbed/digits-1.0"


@pytest.fixture
async def client(web, tls):
    impatient = Retry(attempts=4, first_s=0.001, cap_s=0.002, connect_s=2.0, read_s=2.0)
    made = HttpsClient(mirrors={"models.testbed": web.url + "/under"}, retry=impatient, tls=tls)
    yield made
    await made.aclose()


@pytest.fixture
def digits(media, lay):
    path = media / "under" / "digits-1.0"
    lay.put(path, {**lay.FILES, "manifest.json": lay.manifest(lay.FILES)})
    return path


@pytest.fixture
def unsized(media, lay):
    path = media / "under" / "digits-1.0"
    _, bundle = lay.signed(lay.FILES)
    lay.put(path, {**lay.FILES, "model.sig": bundle})
    return path


@pytest.fixture
def into(tmp_path):
    return tmp_path / "staging" / "x"


async def artifact_of(client):
    return await client.fetch_artifact(SOURCE, await client.resolve(SOURCE))


@pytest.mark.usefixtures("digits")
async def test_what_broke_off_goes_on_with_a_closed_range(client, web, answer, into, lay):
    artifact = await artifact_of(client)
    web.fail("model.onnx", lambda _, good: answer(body=good.body, cut=3000))

    await client.fetch_layers(artifact, into=into)

    ranges = [request.headers.get("range") for request in web.asked("model.onnx")]
    assert ranges == [None, "bytes=3000-6999"]
    assert hash_directory(into) == lay.digests(lay.FILES)


@pytest.mark.usefixtures("unsized")
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
async def test_sizes_that_nobody_signed_are_asked_for(client, web, into, lay, ranges):
    web.ranges = ranges
    seen = []

    await client.fetch_layers(
        await artifact_of(client), into=into, on_progress=lambda *how: seen.append(how)
    )

    total = sum(map(len, lay.FILES.values()))
    assert seen[-1] == (total, total)
    assert hash_directory(into) == lay.digests(lay.FILES)


@pytest.mark.usefixtures("unsized")
async def test_a_server_that_tells_no_size_needs_a_manifest(client, web, answer, into):
    artifact = await artifact_of(client)
    web.fail("model.onnx", lambda _, good: answer(body=good.body, length=False))

    with pytest.raises(SourceNotFoundError, match=r"manifest\.json"):
        await client.fetch_layers(artifact, into=into)


@pytest.mark.usefixtures("unsized")
async def test_a_size_that_is_a_lie_is_found(client, web, answer, into):
    artifact = await artifact_of(client)
    headers = {"Content-Range": "bytes 0-0/9999999999999999"}
    web.fail("model.onnx", lambda *_: answer(206, body=b"w", headers=headers))

    with pytest.raises(SourceNotFoundError, match="how large"):
        await client.fetch_layers(artifact, into=into)


@pytest.mark.usefixtures("unsized")
async def test_what_passes_is_tried_again_and_what_stays_is_unavailable(
    client, web, answer, into, lay
):
    artifact = await artifact_of(client)
    web.fail("tokens/vocab.txt", lambda *_: answer(503), times=3)
    await client.fetch_layers(artifact, into=into)

    web.fail("model.sig", lambda *_: answer(503), times=9)
    with pytest.raises(RegistryUnavailableError):
        await client.fetch_artifact(SOURCE, artifact.digest)
    assert hash_directory(into) == lay.digests(lay.FILES)


async def test_a_file_that_is_not_there_is_final(client, digits, web, into):
    artifact = await artifact_of(client)
    (digits / "tokens" / "vocab.txt").unlink()

    with pytest.raises(SourceNotFoundError, match=r"vocab\.txt"):
        await client.fetch_layers(artifact, into=into)
    assert len(web.asked("vocab.txt")) == 1


async def test_nothing_there_is_final(client):
    with pytest.raises(SourceNotFoundError, match=r"manifest\.json"):
        await client.resolve(SOURCE)


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("status", [401, 403, 410])
async def test_a_manifest_that_may_not_be_read_is_final(client, web, answer, status):
    web.fail("manifest.json", lambda *_: answer(status))

    with pytest.raises(SourceNotFoundError, match=str(status)):
        await client.resolve(SOURCE)


async def test_a_cancelled_fetch_goes_on_where_it_was(client, media, web, answer, into, lay):
    content = {"model.onnx": bytes(range(256)) * 4096}
    path = media / "under" / "digits-1.0"
    lay.put(path, {**content, "manifest.json": lay.manifest(content)})
    artifact = await artifact_of(client)
    web.fail("model.onnx", lambda _, good: answer(body=good.body, cut=700_000))
    begun = asyncio.Event()

    def note(done, _total):
        if done:
            begun.set()

    fetching = asyncio.ensure_future(client.fetch_layers(artifact, into=into, on_progress=note))
    await begun.wait()
    fetching.cancel()
    await asyncio.wait({fetching})
    await client.fetch_layers(artifact, into=into)

    assert hash_directory(into) == lay.digests(content)


@pytest.mark.parametrize(
    "source",
    [
        "http://models.testbed/m",
        "https://models.testbed",
        "https://models.testbed/",
        "https://user:secret@models.testbed/m",
        "https://models.testbed/m?token=x",
        "https://models.testbed/m#x",
        "https://models.testbed/../m",
        "https://models.testbed/%2e%2e/m",
        "https://models.testbed/a//b",
        "https:///m",
        "https://models.testbed/" + "a" * 600,
    ],
)
async def test_a_source_that_is_no_plain_address_is_unsupported(client, source):
    with pytest.raises(UnsupportedArtifactError):
        await client.resolve(source)
