import base64
import json

import pytest

from linnet_agent.errors import UnsupportedArtifactError
from linnet_agent.fetch.credentials import Credential, load_docker_config
from linnet_agent.fetch.references import (
    OciReference,
    parse_mirrors,
    parse_source,
    registry_url,
)

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("source", "reference"),
    [
        ("oci://r/m", OciReference("r", "m", "latest", None)),
        ("oci://r.local/a/b-c:1.0", OciReference("r.local", "a/b-c", "1.0", None)),
        ("oci://r:5000/a:1", OciReference("r:5000", "a", "1", None)),
        (f"oci://r/a@{DIGEST}", OciReference("r", "a", "latest", DIGEST)),
        (f"oci://r/a:1@{DIGEST}", OciReference("r", "a", "1", DIGEST)),
        ("oci://[fd00::1]:5000/a:1", OciReference("[fd00::1]:5000", "a", "1", None)),
    ],
)
def test_sources_are_read(source, reference):
    assert parse_source(source) == reference


@pytest.mark.parametrize(
    "source",
    [
        "",
        "r/a:1",
        "https://r/a",
        "file:///srv/model",
        "oci://",
        "oci://r",
        "oci:///a",
        "oci://r/",
        "oci://r/A",
        "oci://r/a//b",
        "oci://r/../b",
        "oci://r/a:",
        "oci://r/a:x y",
        "oci://r/a@",
        "oci://r/a@sha256:00",
        "oci://user@r/a",
        "oci://r/a?x=1",
        "oci://r/a#x",
        "oci://r\n/a",
        "oci://r/" + "a" * 600,
    ],
)
def test_other_sources_are_unsupported(source):
    with pytest.raises(UnsupportedArtifactError):
        parse_source(source)


def test_mirrors_stand_in_for_hosts():
    mirrors = parse_mirrors("a=http://127.0.0.1:5001, b:5000=https://x/y/,")

    assert mirrors == {"a": "http://127.0.0.1:5001", "b:5000": "https://x/y"}
    assert registry_url(parse_source("oci://a/m"), mirrors) == "http://127.0.0.1:5001"
    assert registry_url(parse_source("oci://c/m"), mirrors) == "https://c"
    assert parse_mirrors("") == {}


@pytest.mark.parametrize(
    "text", ["a", "a=", "=http://x", "a=ftp://x", "a=http://", "a=http://u:p@x", "a=x:5000"]
)
def test_mirrors_of_another_form_are_refused(text):
    with pytest.raises(ValueError, match="host="):
        parse_mirrors(text)


def test_dockers_credentials_are_read(tmp_path):
    path = tmp_path / "config.json"
    auth = base64.b64encode(b"me:secret:with:colons").decode()
    path.write_text(json.dumps({"auths": {"https://r:5000/v1/": {"auth": auth}, "empty": {}}}))

    assert load_docker_config(path) == {"r:5000": Credential("me", "secret:with:colons")}
    assert "secret" not in repr(load_docker_config(path))


@pytest.mark.parametrize("text", ["", "[]", '{"auths": []}', '{"auths": {"r": {"auth": "%"}}}'])
def test_a_broken_config_is_refused_without_its_content(tmp_path, text):
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(ValueError, match="Docker"):
        load_docker_config(tmp_path / "config.json")
