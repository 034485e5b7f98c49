"""Bundles beside an artifact: found by the API or by the tag, whatever else lies there."""

import asyncio
import hashlib
from dataclasses import replace

import pytest

from linnet_agent.errors import RegistryUnavailableError, SourceNotFoundError

REPOSITORY = "models/digits"
SOURCE = f"oci://registry.testbed/{REPOSITORY}:1.0"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


async def test_broken_referrers_are_left_out(registry, client):
    registry.referrers_api = True
    digest = registry.publish()
    registry.attach(digest, b"wrong layer", layers=[{"mediaType": "text/plain", "digest": "x"}])
    registry.attach(digest, b"no layer", layers=[])
    registry.attach(digest, b"two layers", layers=[{}, {}])
    registry.attach(digest, b"other kind", artifactType="text/plain")
    lost = registry.attach(digest, b"lost blob")
    del registry.blobs[digest_of(b"lost blob")]
    forged = registry.attach(digest, b"forged blob")
    registry.blobs[digest_of(b"forged blob")] = b"something else"
    registry.attach(digest, b'{"x": "' + b"x" * (5 << 20) + b'"}')
    registry.attach(digest, b"{}", annotations={"x": "x" * (70 << 10)})
    registry.attach(digest, b"no json")
    registry.attach(digest, b'{"a": 1, "a": 2}')
    registry.attach(digest, b'{"good": 1}')

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.bundles == (b'{"good": 1}',)
    assert lost != forged


async def test_a_referrer_of_another_artifact_is_left_out(registry, client):
    digest = registry.publish()
    other = registry.attach("sha256:" + "0" * 64, b"for another")
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"digest": other, "artifactType": BUNDLE_TYPE}, "junk", {"digest": 7}],
    }
    registry.put_manifest(REPOSITORY, index, tag=digest.replace(":", "-"))

    assert (await client.fetch_artifact(SOURCE, digest)).bundles == ()


@pytest.mark.slow
async def test_pages_of_referrers_are_followed(registry, client):
    registry.referrers_api = True
    registry.page_size = 7
    digest = registry.publish()
    for number in range(70):
        registry.attach(digest, b'{"n": %d}' % number)

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert set(artifact.bundles) == {b'{"n": %d}' % number for number in range(70)}


async def test_the_number_of_referrers_that_are_looked_at_is_bounded(registry, client, monkeypatch):
    monkeypatch.setattr("linnet_agent.fetch.oci._MAX_CANDIDATES", 20)
    registry.referrers_api = True
    digest = registry.publish()
    for number in range(30):
        registry.attach(digest, b'{"n": %d}' % number)

    assert len((await client.fetch_artifact(SOURCE, digest)).bundles) == 20


@pytest.mark.slow
async def test_well_formed_strangers_do_not_hide_a_good_one(registry, client):
    registry.referrers_api = True
    digest = registry.publish()
    for number in range(300):
        registry.attach(digest, b'{"stranger": %d}' % number)
    registry.attach(digest, b'{"good": "a larger one"}')

    assert b'{"good": "a larger one"}' in (await client.fetch_artifact(SOURCE, digest)).bundles


async def test_large_bundles_do_not_use_up_what_a_small_one_needs(registry, client):
    registry.referrers_api = True
    digest = registry.publish()
    for number in range(12):
        registry.attach(digest, b'{"n": "%d%s"}' % (number, b"x" * ((4 << 20) - 100)))
    registry.attach(digest, b'{"good": 1}')

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.bundles[0] == b'{"good": 1}'
    assert len(artifact.bundles) < 12


@pytest.mark.parametrize("size", [0, -1, True, "12", None, 5 << 20])
async def test_a_bundle_of_no_size_that_a_bundle_can_have_is_left_out(registry, client, size):
    registry.referrers_api = True
    digest = registry.publish()
    blob = b'{"good": 1}'
    layer = {"mediaType": BUNDLE_TYPE, "digest": digest_of(blob), "size": size}
    registry.attach(digest, blob, layers=[layer])

    assert (await client.fetch_artifact(SOURCE, digest)).bundles == ()


@pytest.mark.slow
@pytest.mark.parametrize("api", [True, False], ids=["api", "tag"])
async def test_a_hundred_junk_referrers_do_not_hide_a_good_one(registry, client, api, caplog):
    caplog.set_level("WARNING", "linnet_agent.fetch.oci")
    registry.referrers_api = api
    registry.page_size = 9
    digest = registry.publish()
    junk = [registry.attach(digest, b"junk %d" % number) for number in range(100)]
    good = registry.attach(digest, b'{"good": 1}')
    listed = [{"digest": one, "artifactType": BUNDLE_TYPE} for one in (*junk, good)]
    registry.put_manifest(
        REPOSITORY,
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed},
        tag=digest.replace(":", "-"),
    )

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.bundles == (b'{"good": 1}',)
    (said,) = caplog.records  # once, however many there are
    assert said.count == 100


@pytest.mark.parametrize(
    "link",
    [
        pytest.param('</v2/models/digits/referrers/{}?artifactType=x>; rel="next"', id="loop"),
        pytest.param('<?n=1>; rel="next"', id="a loop of relative links"),
        pytest.param('</v2/other/repository/referrers/{}?n=1>; rel="next"', id="elsewhere"),
        pytest.param('</v2/models/digits/blobs/{}>; rel="next"', id="no list"),
        pytest.param('<http://169.254.169.254/x>; rel="next"', id="metadata"),
        pytest.param('<http://localhost:1/v2/models/digits/referrers/{}>; rel="next"', id="host"),
        pytest.param('<https://[>; rel="next"', id="no address"),
        pytest.param('<http://127.0.0.1:99999999/x>; rel="next"', id="no port"),
        pytest.param("<" + "x" * 60_000 + '>; rel="next"', id="long"),
        pytest.param("<x; rel=next", id="no link"),
    ],
)
async def test_pages_that_lead_in_circles_or_away_end(registry, client, link):
    registry.referrers_api = True
    digest = registry.publish()
    registry.attach(digest, b'{"good": 1}')
    lead = {"Link": link.replace("{}", digest)}
    registry.fail("referrers/", lambda _, good: replace(good, headers=lead), times=999)

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.bundles == (b'{"good": 1}',)
    assert len(registry.asked("referrers/")) <= 2
    assert all(request.path.startswith(f"/v2/{REPOSITORY}/") for request in registry.requests)


@pytest.mark.slow
async def test_pages_without_end_end(registry, client):
    registry.referrers_api = True
    digest = registry.publish()
    registry.attach(digest, b'{"good": 1}')
    count = iter(range(9999))
    registry.fail(
        "referrers/",
        lambda _, good: replace(good, headers={"Link": f'<?n={next(count)}>; rel="next"'}),
        times=999,
    )

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.bundles == (b'{"good": 1}',)
    assert len(registry.asked("referrers/")) <= 32


async def test_a_page_that_is_missing_leaves_those_before_it(registry, client, answer):
    registry.referrers_api = True
    registry.page_size = 1
    digest = registry.publish()
    for number in range(3):
        registry.attach(digest, b'{"n": %d}' % number)
    registry.fail(
        "referrers/",
        lambda request, good: answer(404) if "from" in request.query else good,
        times=9,
    )

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.bundles == (b'{"n": 0}',)


async def test_signatures_that_the_api_does_not_know_are_found_by_their_tag(
    registry, client, answer
):
    digest = registry.publish()
    bundle = registry.attach(digest, b'{"good": 1}')
    listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"digest": bundle}]}
    registry.put_manifest(REPOSITORY, listed, tag=digest.replace(":", "-"))
    empty = answer(body=b'{"schemaVersion": 2, "manifests": []}')
    registry.fail("referrers/", lambda *_: empty)

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.bundles == (b'{"good": 1}',)


async def test_one_bundle_that_cannot_be_had_ends_the_questions_for_the_others(
    registry, client, answer
):
    registry.referrers_api = True
    digest = registry.publish()
    for number in range(8):
        registry.attach(digest, b'{"n": %d}' % number)
    lost = digest_of(b'{"n": 0}')
    registry.fail(lost, lambda *_: answer(500), times=99)
    for number in range(1, 8):  # says more than it sends
        stalling = digest_of(b'{"n": %d}' % number)
        registry.fail(stalling, lambda _, good: replace(good, headers={"Content-Length": "99"}))

    with pytest.raises(RegistryUnavailableError, match="500"):
        await client.fetch_artifact(SOURCE, digest)

    assert not [task for task in asyncio.all_tasks() if "OciClient" in repr(task)]


async def test_the_same_bundle_twice_is_one_bundle(registry, client):
    registry.referrers_api = True
    digest = registry.publish()
    registry.attach(digest, b'{"good": 1}')
    registry.attach(digest, b'{"good": 1}', annotations={"again": "yes"})

    assert (await client.fetch_artifact(SOURCE, digest)).bundles == (b'{"good": 1}',)


@pytest.mark.slow
async def test_bundles_are_bounded_in_bytes(registry, client):
    registry.referrers_api = True
    digest = registry.publish()
    for number in range(12):
        registry.attach(digest, b'{"n": "%d%s"}' % (number, b"x" * ((4 << 20) - 100)))

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert sum(map(len, artifact.bundles)) <= 16 << 20


@pytest.mark.parametrize("what", ["manifests/sha256:", "referrers/"])
async def test_documents_are_bounded_in_bytes(registry, client, answer, what):
    registry.referrers_api = True
    digest = registry.publish()
    registry.attach(digest, b'{"good": 1}')
    huge = answer(body=b" " * (5 << 20))
    registry.fail(what, lambda *_: huge)

    if what == "referrers/":
        assert (await client.fetch_artifact(SOURCE, digest)).bundles == ()
    else:
        with pytest.raises(SourceNotFoundError, match="larger"):
            await client.fetch_artifact(SOURCE, digest)


async def test_a_tag_that_moves_between_two_questions_changes_nothing(registry, client):
    digest = await client.resolve(f"{SOURCE}@{registry.publish()}")
    other = registry.publish(layers=[registry.layer("golden.json", b"{}")])

    artifact = await client.fetch_artifact(SOURCE, digest)

    assert artifact.digest == digest != other
    assert await client.resolve(SOURCE) == other


@pytest.mark.parametrize("header", ["Docker-Content-Digest", "ETag"])
async def test_what_a_registry_calls_a_manifest_counts_for_nothing(
    registry, client, answer, header
):
    digest = registry.publish()
    lie = {header: "sha256:" + "0" * 64, "Content-Type": MANIFEST_TYPE}
    registry.fail("manifests/1.0", lambda _, good: answer(body=good.body, headers=lie))

    assert await client.resolve(SOURCE) == digest


async def test_an_index_that_is_no_json_lists_nothing(registry, client, answer):
    registry.referrers_api = True
    digest = registry.publish()
    registry.fail("referrers/", lambda *_: answer(body=b"<html>"))

    assert (await client.fetch_artifact(SOURCE, digest)).bundles == ()
