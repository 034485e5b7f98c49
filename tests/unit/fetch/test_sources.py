"""A source's scheme decides who fetches it."""

import pytest

from linnet_agent.errors import UnsupportedArtifactError
from linnet_agent.fetch.oci import OciClient, Retry
from linnet_agent.fetch.sources import Sources


@pytest.fixture
async def sources():
    opened = Sources({"oci": OciClient(retry=Retry(attempts=1))})
    yield opened
    await opened.aclose()


@pytest.mark.parametrize(
    "source", ["", "oci", "ftp://h/m", "https://h/m", "oci:/r/m:1", "OCI://r/m"]
)
async def test_a_scheme_that_nobody_speaks_is_unsupported(sources, source):
    with pytest.raises(UnsupportedArtifactError, match="oci://"):
        await sources.resolve(source)


async def test_a_known_scheme_is_asked(sources):
    digest = "sha256:" + "a" * 64

    assert await sources.resolve(f"oci://r/m@{digest}") == digest
