"""Sources are read strictly, and a written digest needs no registry."""

import pytest

from linnet_operator.errors import SourceMalformedError
from linnet_operator.sources import OciSource, pinned_digest

DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"


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
        pytest.param("https://x/models/m-1.0", DIGEST, DIGEST, id="a web server"),
        pytest.param("https://[fd00::1]:8443/m/", DIGEST, DIGEST, id="a web server's address"),
        pytest.param("file:///media/usb/my%20stick", DIGEST, DIGEST, id="a stick"),
    ],
)
def test_a_written_digest_needs_no_registry(source, digest, pinned):
    assert pinned_digest(source, digest) == pinned


def test_two_digests_are_one_too_many():
    with pytest.raises(SourceMalformedError, match="keep one"):
        pinned_digest(f"oci://r.io/a@{DIGEST}", OTHER)


@pytest.mark.parametrize("source", ["https://x/m", "file:///media/usb/m"])
def test_a_directory_needs_a_digest(source):
    with pytest.raises(SourceMalformedError, match=r"spec\.digest"):
        pinned_digest(source, None)


@pytest.mark.parametrize(
    "source",
    [
        "https://x",
        "https://x/",
        "https:///m",
        "https://user:secret@x/m",
        "https://x/m?token=1",
        "https://x/m#1",
        "https://x/../m",
        "https://x/%2e%2e/m",
        "https://x/a//b",
        "https://x/a%2f%2fb",
        "http://x/m",
        "file://host/m",
        "file:///",
        "file:///a/../b",
        "file:///a%00b",
        "file:///a b",
        "ftp://x/m",
    ],
)
def test_what_is_no_directory_is_refused(source):
    with pytest.raises(SourceMalformedError, match="directory"):
        pinned_digest(source, DIGEST)
