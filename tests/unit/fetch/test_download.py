"""Files: streamed, resumed, hashed; whatever breaks off, and whoever lies about it."""

import asyncio
import contextlib
import hashlib
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linnet_agent.errors import DigestMismatchError, RegistryUnavailableError
from linnet_agent.fetch.oci import OciClient, Retry

SOURCE = "oci://registry.testbed/models/digits:1.0"
WEIGHTS = bytes(range(251)) * 10_000
SIZE = len(WEIGHTS)
BLOB = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()
OTHER = WEIGHTS[::-1]
QUICK = Retry(attempts=4, first_s=0.001, cap_s=0.002, asked_cap_s=0.01)


def ranges(registry):
    return [request.headers.get("range") for request in registry.asked(BLOB)]


CUTS = st.sampled_from([0, 1, 4095, 4096, (512 << 10) - 1, 512 << 10, (512 << 10) + 1, SIZE - 1])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.slow
@given(
    left=st.none() | CUTS | st.integers(0, SIZE),
    damaged=st.booleans(),
    cuts=st.lists(CUTS | st.integers(1, SIZE - 1), max_size=3),
    keeps_ranges=st.booleans(),
    has_length=st.booleans(),
)
def test_a_fetch_that_was_cut_at_any_byte_ends_with_the_file(
    make_registry, left, damaged, cuts, keeps_ranges, has_length
):
    """A kill leaves a prefix, a power cut leaves other bytes, a network cuts again and again."""

    async def scenario(staging):
        registry = make_registry()
        await registry.start()
        registry.ranges = keeps_ranges
        digest = registry.publish()
        if left is not None:
            staging.mkdir()
            content = bytearray(WEIGHTS[:left])
            if damaged and content:
                content[len(content) // 2] ^= 1
            (staging / "model.onnx").write_bytes(content)
        for cut in cuts:
            registry.fail(BLOB, lambda _, good, cut=cut: replace(good, cut=cut, length=has_length))
        mirrors = {"registry.testbed": registry.url}
        async with OciClient(mirrors=mirrors, retry=QUICK) as client:
            artifact = await client.fetch_artifact(SOURCE, digest)
            await client.fetch_layers(artifact, into=staging)
        await registry.stop()
        assert (staging / "model.onnx").read_bytes() == WEIGHTS
        assert (staging / "model.onnx").stat().st_mode & 0o777 == 0o444

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scenario(Path(directory, "staging")))


async def test_a_torn_file_on_a_bad_line_is_fetched_anew_in_pieces(
    registry, client, artifact, staging
):
    staging.mkdir()
    (staging / "model.onnx").write_bytes(bytes(SIZE))
    registry.fail(BLOB, lambda _, good: replace(good, cut=300_000), times=7)

    await client.fetch_layers(artifact, into=staging)

    assert (staging / "model.onnx").read_bytes() == WEIGHTS
    assert ranges(registry)[:2] == [None, f"bytes=300000-{SIZE - 1}"]


async def test_other_bytes_the_second_time_are_noticed_and_the_file_fetched_whole(
    registry, client, artifact, staging
):
    """What came before the cut is of one file, what came after it of another."""
    registry.fail(BLOB, lambda _, good: replace(good, body=OTHER, cut=1_000_000))

    await client.fetch_layers(artifact, into=staging)

    assert (staging / "model.onnx").read_bytes() == WEIGHTS
    assert ranges(registry) == [None, f"bytes=1000000-{SIZE - 1}", None]


async def test_a_registry_that_serves_other_bytes_whenever_it_is_asked_is_refused(
    registry, client, artifact, staging
):
    registry.fail(BLOB, lambda _, good: replace(good, body=OTHER, cut=1_000_000))
    registry.fail(BLOB, lambda _, good: good)
    registry.fail(BLOB, lambda _, good: replace(good, body=OTHER), times=9)

    with pytest.raises(DigestMismatchError, match=r"model\.onnx"):
        await client.fetch_layers(artifact, into=staging)

    assert len(ranges(registry)) == 3


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate, gzip"])
async def test_what_comes_packed_is_refused_and_nothing_is_lost(
    registry, client, artifact, staging, coding
):
    staging.mkdir()
    (staging / "model.onnx").write_bytes(WEIGHTS[:1000])
    packed = {"Content-Encoding": coding}
    registry.fail(BLOB, lambda _, good: replace(good, headers={**good.headers, **packed}))

    with pytest.raises(DigestMismatchError, match="packed"):
        await client.fetch_layers(artifact, into=staging)

    assert (staging / "model.onnx").read_bytes() == WEIGHTS[:1000]
    assert registry.asked(BLOB)[0].headers["accept-encoding"] == "identity"


async def test_identity_is_not_packed(registry, client, artifact, staging):
    registry.fail(BLOB, lambda _, good: replace(good, headers={"Content-Encoding": "Identity"}))

    await client.fetch_layers(artifact, into=staging)

    assert (staging / "model.onnx").read_bytes() == WEIGHTS


@pytest.mark.parametrize("said", [str(SIZE + 1), str(SIZE - 1), "0"])
async def test_a_length_that_is_not_the_manifests_is_refused_before_a_byte_is_written(
    registry, client, artifact, staging, said
):
    registry.fail(BLOB, lambda _, good: replace(good, headers={"Content-Length": said}))

    with pytest.raises(DigestMismatchError, match="was to have"):
        await client.fetch_layers(artifact, into=staging)

    assert (staging / "model.onnx").stat().st_size == 0


@pytest.mark.parametrize("said", ["-1", "many", "", "9" * 30, "9" * 5000], ids=range(5))
async def test_a_length_that_is_none_is_refused_or_not_believed(
    registry, client, artifact, staging, said
):
    registry.fail(BLOB, lambda _, good: replace(good, headers={"Content-Length": said}))

    with contextlib.suppress(DigestMismatchError):
        await client.fetch_layers(artifact, into=staging)

    assert (staging / "model.onnx").read_bytes() in {WEIGHTS, b""}
    assert len(ranges(registry)) == 1


async def test_a_registry_without_ranges_on_a_bad_line_is_given_up_not_asked_for_ever(
    registry, client, artifact, staging
):
    registry.ranges = False
    registry.fail(BLOB, lambda _, good: replace(good, cut=1_000_000), times=99)

    with pytest.raises(RegistryUnavailableError, match="4 attempts"):
        await client.fetch_layers(artifact, into=staging)

    assert len(ranges(registry)) <= 8


async def test_an_error_in_the_middle_is_waited_for_as_long_as_the_server_asks(
    registry, artifact, staging, answer
):
    registry.fail(BLOB, lambda _, good: replace(good, cut=1_000_000))
    registry.fail(BLOB, lambda *_: answer(429, headers={"Retry-After": "1"}))
    async with OciClient(
        mirrors={"registry.testbed": registry.url}, retry=replace(QUICK, asked_cap_s=0.05)
    ) as patient:
        begun = asyncio.get_running_loop().time()
        await patient.fetch_layers(artifact, into=staging)
        took = asyncio.get_running_loop().time() - begun

    assert took >= 0.05
    assert (staging / "model.onnx").read_bytes() == WEIGHTS
    assert ranges(registry)[1:] == [f"bytes=1000000-{SIZE - 1}"] * 2


async def test_the_first_file_that_fails_ends_the_others(registry, client, artifact, staging):
    del registry.blobs[BLOB]

    with pytest.raises(Exception, match=r"model\.onnx") as caught:
        await client.fetch_layers(artifact, into=staging)

    assert not isinstance(caught.value, ExceptionGroup)


async def test_progress_is_of_all_files_and_ends_with_the_whole(client, artifact, staging):
    seen = []
    await client.fetch_layers(
        artifact, into=staging, on_progress=lambda have, total: seen.append((have, total))
    )

    assert seen == sorted(seen)
    assert seen[-1] == (artifact.manifest.total_bytes,) * 2


async def test_whoever_cancels_finds_what_came_before_on_disk(
    registry, client, artifact, staging, answer
):
    reached = asyncio.Event()
    stall = answer(206, headers={"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE}"})
    stall.headers["Content-Length"] = str(SIZE - 1000)
    stall.body = WEIGHTS[1000:900_000]
    staging.mkdir()
    (staging / "model.onnx").write_bytes(WEIGHTS[:1000])
    registry.fail(BLOB, lambda *_: stall)

    def note(have, _total):
        if have > 500_000:
            reached.set()

    fetching = asyncio.ensure_future(client.fetch_layers(artifact, into=staging, on_progress=note))
    await asyncio.wait_for(reached.wait(), 30)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching

    assert (staging / "model.onnx").read_bytes() == WEIGHTS[:900_000]
    await client.fetch_layers(artifact, into=staging)
    assert ranges(registry)[-1] == f"bytes=900000-{SIZE - 1}"
    assert (staging / "model.onnx").read_bytes() == WEIGHTS


# In a process of its own

PROGRAM = """
import asyncio, sys
from pathlib import Path
from linnet_agent.fetch.oci import OciClient

async def main(url, source, into):
    async with OciClient(mirrors={"registry.testbed": url}) as client:
        artifact = await client.fetch_artifact(source, await client.resolve(source))
        await client.fetch_layers(artifact, into=Path(into))

asyncio.run(main(*sys.argv[1:]))
"""


async def _start(registry, staging, *wrapper):
    arguments = (sys.executable, "-c", PROGRAM, registry.url, SOURCE, str(staging))
    return await asyncio.create_subprocess_exec(*wrapper, *arguments)


async def _until(is_so):
    while not is_so():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.crash
async def test_a_process_that_is_killed_in_the_middle_goes_on_where_it_was(registry, staging):
    registry.publish()
    stalled = asyncio.Event()

    def stall(_request, good):
        stalled.set()
        said = {**(good.headers or {}), "Content-Length": str(len(good.body))}
        return replace(good, headers=said, body=good.body[:700_000])

    file, sizes = staging / "model.onnx", []
    for _ in range(3):
        stalled.clear()
        registry.fail(BLOB, stall)
        child = await _start(registry, staging)
        await asyncio.wait_for(stalled.wait(), 60)
        before = (sizes or [0])[-1]
        await asyncio.wait_for(_until(lambda had=before: file.stat().st_size > had), 60)
        child.send_signal(signal.SIGKILL)
        await child.wait()
        sizes.append(file.stat().st_size)
    child = await _start(registry, staging)

    assert await child.wait() == 0
    assert file.read_bytes() == WEIGHTS
    assert ranges(registry) == [None, *(f"bytes={size}-{SIZE - 1}" for size in sizes)]


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("left", [0, 1_000_000], ids=["undisturbed", "resumed"])
async def test_every_byte_is_read_once(registry, staging, tmp_path, left):
    """Nothing is read from disk but what a former attempt left; nothing is fetched twice."""
    registry.publish()
    staging.mkdir()
    if left:
        (staging / "model.onnx").write_bytes(WEIGHTS[:left])
    trace = tmp_path / "trace"
    watched = "trace=read,pread64,readv,preadv,preadv2,mmap,sendfile,copy_file_range,splice"
    options = ("-f", "-qq", "-o", str(trace), "-e", watched, "-P", str(staging / "model.onnx"))

    child = await _start(registry, staging, "strace", *options)

    assert await child.wait() == 0
    calls = trace.read_text().splitlines()
    assert not [call for call in calls if re.search(r"mmap|sendfile|copy_file_range|splice", call)]
    returned = [int(call.rpartition("= ")[2].split()[0]) for call in calls if "= " in call]
    assert returned, "the file was looked at, at least for what is left of it"
    assert sum(returned) == left
    assert len(registry.asked(BLOB)) == 1
