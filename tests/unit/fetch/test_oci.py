import asyncio
import hashlib
from dataclasses import replace

import pytest

from linnet_agent.errors import (
    DigestMismatchError,
    DiskFullError,
    RegistryUnavailableError,
    SourceNotFoundError,
    UnsupportedArtifactError,
)
from linnet_agent.fetch.oci import OciClient, Retry
from linnet_agent.verify.manifest import Artifact, parse_manifest

REPOSITORY = "models/digits"
SOURCE = f"oci://registry.testbed/{REPOSITORY}:1.0"
WEIGHTS = bytes(range(251)) * 10_000
INDEX = "application/vnd.oci.image.index.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _is_complete(staging):
    return {
        path.relative_to(staging).as_posix(): path.read_bytes()
        for path in staging.rglob("*")
        if path.is_file()
    } == {"golden.json": b"{}", "model.onnx": WEIGHTS}


# The registry is ill


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda a: lambda *_: a(500), id="500"),
        pytest.param(lambda a: lambda *_: a(503), id="503"),
        pytest.param(lambda a: lambda *_: a(429), id="429"),
        pytest.param(lambda _: lambda *_: None, id="closes without an answer"),
        pytest.param(lambda _: lambda _, good: replace(good, cut=1), id="breaks off"),
    ],
)
@pytest.mark.parametrize("part", ["manifests/sha256:", "blobs/"])
async def test_what_passes_is_tried_again(registry, client, staging, answer, fault, part):
    digest = registry.publish()
    registry.fail(part, fault(answer), times=3)

    artifact = await client.fetch_artifact(SOURCE, digest)
    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)
    assert not registry.faults


async def test_a_registry_that_stays_ill_is_unavailable(registry, client, answer):
    digest = registry.publish()
    registry.fail("manifests/", lambda *_: answer(500), times=10)

    with pytest.raises(RegistryUnavailableError, match="500"):
        await client.fetch_artifact(SOURCE, digest)

    assert len(registry.requests) == 4
    assert RegistryUnavailableError.transient


async def test_a_blob_that_cannot_be_had_is_given_up_after_attempts_without_progress(
    registry, client, artifact, staging, answer
):
    registry.fail("blobs/", lambda *_: answer(502), times=50)

    with pytest.raises(RegistryUnavailableError, match=r"502.*4 attempts"):
        await client.fetch_layers(artifact, into=staging)

    assert max(len(registry.asked(layer.digest)) for layer in artifact.layers) == 4


async def test_nobody_there_is_unavailable(registry, client):
    digest = registry.publish()
    await registry.stop()

    with pytest.raises(RegistryUnavailableError):
        await client.fetch_artifact(SOURCE, digest)


async def test_signatures_that_cannot_be_looked_for_are_not_called_absent(registry, client, answer):
    digest = registry.publish()
    registry.fail("referrers/", lambda *_: answer(500), times=10)

    with pytest.raises(RegistryUnavailableError):
        await client.fetch_artifact(SOURCE, digest)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_no_is_final(registry, client, answer, status):
    digest = registry.publish()
    registry.fail("manifests/", lambda *_: answer(status), times=10)

    with pytest.raises(SourceNotFoundError):
        await client.fetch_artifact(SOURCE, digest)

    assert len(registry.requests) == 1


async def test_a_blob_that_is_missing_is_final(registry, client, artifact, staging):
    del registry.blobs[digest_of(WEIGHTS)]

    with pytest.raises(SourceNotFoundError, match=r"model\.onnx"):
        await client.fetch_layers(artifact, into=staging)

    assert len(registry.asked(digest_of(WEIGHTS))) == 1


# The registry lies


async def test_another_manifest_than_the_named_one_is_refused(registry, client, answer):
    digest = registry.publish()
    registry.fail("manifests/", lambda _, good: answer(body=good.body + b" "))

    with pytest.raises(DigestMismatchError):
        await client.fetch_artifact(SOURCE, digest)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(WEIGHTS[:-1] + b"x", id="other bytes"),
        pytest.param(WEIGHTS + b"x", id="one byte more"),
        pytest.param(WEIGHTS[:-1], id="one byte less"),
    ],
)
async def test_a_blob_that_is_not_what_the_manifest_says_is_refused(
    registry, client, artifact, staging, body
):
    registry.blobs[digest_of(WEIGHTS)] = body

    with pytest.raises(DigestMismatchError, match=r"model\.onnx"):
        await client.fetch_layers(artifact, into=staging)


async def test_a_blob_is_read_no_further_than_it_was_to_be(
    registry, client, artifact, staging, answer
):
    registry.fail(digest_of(WEIGHTS), lambda *_: answer(body=WEIGHTS * 4, length=False), times=1)

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)


async def test_a_refused_blob_leaves_nothing_to_build_upon(registry, client, artifact, staging):
    registry.blobs[digest_of(WEIGHTS)] = WEIGHTS[:-1] + b"x"
    with pytest.raises(DigestMismatchError):
        await client.fetch_layers(artifact, into=staging)
    registry.blobs[digest_of(WEIGHTS)] = WEIGHTS

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)


def _range(first, last):
    return {"Content-Range": f"bytes {first}-{last}/{len(WEIGHTS)}"}


LAST = len(WEIGHTS) - 1


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda a: a(416), id="416"),
        pytest.param(
            lambda a: a(206, body=WEIGHTS[1000:], headers=_range(0, LAST - 1000)),
            id="says another range",
        ),
        pytest.param(lambda a: a(206, body=WEIGHTS[1000:]), id="says no range"),
        pytest.param(
            lambda a: a(206, body=WEIGHTS[999:-1], headers=_range(1000, LAST)), id="shifted bytes"
        ),
        pytest.param(
            lambda a: a(206, body=WEIGHTS, headers=_range(1000, LAST)), id="the whole as a part"
        ),
        pytest.param(
            lambda a: a(206, body=WEIGHTS[1000:] + b"x", headers=_range(1000, LAST), length=False),
            id="longer, and does not say so",
        ),
        pytest.param(
            lambda a: a(206, body=WEIGHTS[1000:], headers=_range(1000, LAST), cut=9),
            id="shorter than it says",
        ),
        pytest.param(
            lambda a: a(206, body=WEIGHTS[1000:9000], headers=_range(1000, LAST)), id="says shorter"
        ),
        pytest.param(
            lambda a: a(206, body=WEIGHTS[1000:9000], headers=_range(1000, LAST), length=False),
            id="shorter, and does not say so",
        ),
        pytest.param(lambda a: a(200, body=WEIGHTS, length=False), id="200 without a length"),
        pytest.param(
            lambda a: a(206, body=b"--x", headers={"Content-Type": "multipart/byteranges"}),
            id="several ranges",
        ),
    ],
)
async def test_a_server_that_lies_about_ranges_does_not_stop_a_resume(
    registry, client, artifact, staging, answer, lie
):
    staging.mkdir()
    (staging / "model.onnx").write_bytes(WEIGHTS[:1000])
    registry.fail(digest_of(WEIGHTS), lambda *_: lie(answer))

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)
    assert registry.asked(digest_of(WEIGHTS))[0].headers["range"] == f"bytes=1000-{LAST}"


async def test_a_range_that_nobody_asked_for_is_refused(
    registry, client, artifact, staging, answer
):
    part = answer(206, body=WEIGHTS[1000:], headers=_range(1000, LAST))
    registry.fail(digest_of(WEIGHTS), lambda *_: part, times=9)

    with pytest.raises(DigestMismatchError, match="range"):
        await client.fetch_layers(artifact, into=staging)


# The way breaks


async def test_every_attempt_gets_further_than_the_one_before(registry, client, artifact, staging):
    registry.fail(
        digest_of(WEIGHTS),
        lambda _, good: replace(good, cut=100_000),
        times=12,
    )

    await client.fetch_layers(artifact, into=staging)

    ranges = [request.headers.get("range") for request in registry.asked(digest_of(WEIGHTS))]
    last = len(WEIGHTS) - 1
    assert _is_complete(staging)
    assert ranges == [None, *(f"bytes={n * 100_000}-{last}" for n in range(1, 13))]


async def test_a_registry_without_ranges_starts_over(registry, client, artifact, staging):
    registry.ranges = False
    staging.mkdir()
    (staging / "model.onnx").write_bytes(WEIGHTS[:1000])

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(b"torn by a power cut", id="other bytes"),
        pytest.param(b"\0" * len(WEIGHTS), id="zeros, full length"),
        pytest.param(WEIGHTS + b"more", id="too long"),
        pytest.param(WEIGHTS[:-1], id="all but one byte"),
    ],
)
async def test_what_was_left_is_hashed_again_before_it_is_built_upon(
    client, artifact, staging, left
):
    staging.mkdir()
    (staging / "model.onnx").write_bytes(left)

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)


async def test_what_is_complete_is_not_fetched_again(registry, client, artifact, staging):
    await client.fetch_layers(artifact, into=staging)
    before = len(registry.requests)

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)
    assert len(registry.requests) == before


async def test_a_fetch_that_was_cancelled_goes_on(client, artifact, staging):
    seen = asyncio.Event()

    def note(have, _total):
        if have > 1_000_000:
            seen.set()

    fetching = asyncio.ensure_future(client.fetch_layers(artifact, into=staging, on_progress=note))
    await asyncio.wait_for(seen.wait(), 10)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)


# The staging directory


async def test_what_is_not_in_the_manifest_is_removed(client, artifact, staging, tmp_path):
    (staging / "old" / "deep").mkdir(parents=True)
    (staging / "old" / "deep" / "file").write_bytes(b"x")
    (staging / "golden.json").mkdir()
    (tmp_path / "victim").write_bytes(b"precious")
    (staging / "model.onnx").symlink_to(tmp_path / "victim")
    (staging / "link").symlink_to(tmp_path)

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)
    assert not (staging / "model.onnx").is_symlink()
    assert not (staging / "old").exists()
    assert (tmp_path / "victim").read_bytes() == b"precious"


async def test_a_file_with_a_second_name_is_not_built_upon(client, artifact, staging, tmp_path):
    staging.mkdir()
    (tmp_path / "victim").write_bytes(WEIGHTS[:1000])
    (staging / "model.onnx").hardlink_to(tmp_path / "victim")

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)
    assert (tmp_path / "victim").read_bytes() == WEIGHTS[:1000]


async def test_no_room_is_said_before_the_first_byte(registry, client, staging):
    huge = registry.layer("model.onnx", WEIGHTS, size=1 << 49)
    raw = registry.manifests[
        REPOSITORY, registry.publish(layers=[registry.layer("golden.json", b"{}"), huge])
    ][1]
    artifact = Artifact(SOURCE, parse_manifest(raw, digest=digest_of(raw)), ())

    with pytest.raises(DiskFullError, match="room"):
        await client.fetch_layers(artifact, into=staging)

    assert not registry.asked("blobs/")
    assert DiskFullError.transient


# Redirects and access


async def test_a_redirect_within_the_scheme_is_followed(
    registry, client, artifact, staging, answer
):
    registry.blobs["elsewhere"] = WEIGHTS
    target = f"{registry.url}/v2/x/blobs/elsewhere"
    registry.fail(digest_of(WEIGHTS), lambda *_: answer(307, headers={"Location": target}))

    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:1/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/x",
        "http://[::ffff:169.254.169.254]/x",
        "http://0.0.0.0:1/x",
        "//169.254.169.254/x",
    ],
)
async def test_a_redirect_to_where_no_registry_is_is_refused(
    registry, client, artifact, staging, answer, target
):
    where = {"Location": target}
    registry.fail(digest_of(WEIGHTS), lambda *_: answer(302, headers=where), times=9)

    with pytest.raises(SourceNotFoundError, match="refused"):
        await client.fetch_layers(artifact, into=staging)

    assert len(registry.asked(digest_of(WEIGHTS))) == 1


async def test_redirects_end(registry, client, answer):
    digest = registry.publish()
    again = {"Location": f"{registry.url}/v2/{REPOSITORY}/manifests/{digest}"}
    registry.fail("manifests/", lambda *_: answer(302, headers=again), times=99)

    with pytest.raises(SourceNotFoundError, match="without end"):
        await client.fetch_artifact(SOURCE, digest)

    assert len(registry.requests) < 10


async def test_a_source_at_a_link_local_address_is_refused():
    async with OciClient(retry=Retry(attempts=1)) as client:
        with pytest.raises(SourceNotFoundError, match="refused"):
            await client.resolve("oci://169.254.169.254/models/digits:1.0")


async def test_a_token_is_fetched_where_the_registry_wants_one(registry, client, staging):
    registry.token = "Secret.42"  # noqa: S105 - made up
    digest = registry.publish()

    artifact = await client.fetch_artifact(SOURCE, digest)
    await client.fetch_layers(artifact, into=staging)

    assert _is_complete(staging)
    (asked,) = registry.asked("/token")
    assert asked.query["scope"] == [f"repository:{REPOSITORY}:pull"]


async def test_a_token_does_not_travel_to_another_host(registry, client, staging, answer):
    registry.token = "Secret.42"  # noqa: S105 - made up
    artifact = await client.fetch_artifact(SOURCE, registry.publish())
    other = registry.url.replace("127.0.0.1", "localhost")
    registry.fail(
        digest_of(b"{}"), lambda *_: answer(307, headers={"Location": f"{other}/v2/x/blobs/y"})
    )

    with pytest.raises(SourceNotFoundError):
        await client.fetch_layers(artifact, into=staging)

    (stranger,) = registry.asked("/v2/x/")
    assert "authorization" not in stranger.headers


async def test_an_index_instead_of_a_model_is_unsupported(registry, client):
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    digest = registry.put_manifest(REPOSITORY, index, tag="1.0")

    with pytest.raises(UnsupportedArtifactError):
        await client.fetch_artifact(SOURCE, digest)


def test_pauses_grow_up_to_a_cap_and_are_jittered():
    retry = Retry(first_s=1.0, cap_s=10.0)

    assert [retry.pause_s(n, 1.0) for n in range(1, 6)] == [1.0, 2.0, 4.0, 8.0, 10.0]
    assert retry.pause_s(1, 0.0) == 0.5
    assert retry.pause_s(500, 1.0) == 10.0
