import base64
import json
import logging
import os

import pytest

from linnet_agent.errors import SourceNotFoundError
from linnet_agent.fetch.credentials import Credential, DockerConfig, parse_challenge


def _auth(user, password):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def config(tmp_path):
    """A config file: call it to write it; it is replaced as a mounted Secret is."""

    class Config:
        path = tmp_path / "config.json"
        found = DockerConfig(path)

        def write(self, document):
            text = document if isinstance(document, str) else json.dumps(document)
            fresh = tmp_path / "fresh"
            fresh.write_text(text)
            fresh.replace(self.path)

        def find(self, host="r.local", repository="team/model"):
            return self.found.find(host, repository)

    return Config()


@pytest.mark.parametrize(
    ("auths", "password"),
    [
        pytest.param({"r.local": _auth("u", "host")}, "host", id="by host"),
        pytest.param({"https://r.local": _auth("u", "url")}, "url", id="by address"),
        pytest.param({"https://r.local/v1/": _auth("u", "old")}, "old", id="as Docker wrote once"),
        pytest.param({"https://r.local/v2/": _auth("u", "v2")}, "v2", id="with the API's path"),
        pytest.param({"r.local": {"username": "u", "password": "p"}}, "p", id="in two fields"),
        pytest.param({"r.local": _auth("u", "a:b:c")}, "a:b:c", id="colons in the password"),
        pytest.param(
            {
                "r.local": _auth("u", "host"),
                "r.local/team": _auth("u", "team"),
                "r.local/team/mod": _auth("u", "other"),
                "r.local/other": _auth("u", "other"),
            },
            "team",
            id="the longest path that fits",
        ),
        pytest.param({"r.local:5000": _auth("u", "port"), "local": _auth("u", "p")}, None, id="no"),
        pytest.param({"r.local": {}}, None, id="an empty entry"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_a_repository_finds_its_credential(config, auths, password):
    config.write({"auths": auths})

    found = config.find()

    assert found == (None if password is None else Credential("u", password))


@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io", "index.docker.io"])
def test_dockers_own_registry_has_several_names(config, host):
    config.write({"auths": {"https://index.docker.io/v1/": _auth("u", "hub")}})

    assert config.find(host) == Credential("u", "hub")


def test_an_identity_token_stands_for_a_password(config):
    config.write({"auths": {"r.local": {**_auth("<token>", ""), "identitytoken": "T"}}})

    assert config.find() == Credential("<token>", "", "T")


def test_a_file_that_changes_is_read_again(config):
    assert config.find() is None
    for password in ("one", "two"):
        config.write({"auths": {"r.local": _auth("u", password)}})
        assert config.find() == Credential("u", password)

    config.path.unlink()
    assert config.find() is None


def test_a_file_that_is_written_in_place_is_read_again(config):
    config.write({"auths": {"r.local": _auth("u", "aaa")}})
    assert config.find() == Credential("u", "aaa")
    before = config.path.stat()

    config.path.write_text(json.dumps({"auths": {"r.local": _auth("u", "bbb")}}))
    os.utime(config.path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    assert config.path.stat().st_ino == before.st_ino
    assert config.find() == Credential("u", "bbb")


def test_a_file_that_has_not_changed_is_not_read_again(config):
    config.write({"auths": {"r.local": _auth("u", "p")}})
    config.find()
    stamp = config.path.stat()
    config.path.write_bytes(b"x" * stamp.st_size)
    os.utime(config.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert config.find() == Credential("u", "p")


BROKEN = [
    "",
    "[]",
    "null",
    '{"auths": []}',
    '{"auths": {"r.local": {"auth": "%"}}}',
    '{"auths": {"r.local": {"auth": "AAAA//8="}}}',
    '{"auths": {"r.local": {"auth": 7}}}',
    '{"auths": {"r.local": {"username": 7}}}',
    '{"auths": {"r.local": "secret"}}',
    '{"auths": {"r.local": {"identitytoken": {"a": 1}}}}',
    "[" * 100_000,
    '{"auths": {}' + " " * (1 << 20) + "}",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_says_so_and_nothing_more(config, text, caplog):
    config.write(text)

    with pytest.raises(SourceNotFoundError, match="cannot be read") as caught:
        config.find()

    assert "secret" not in str(caught.value) + caplog.text


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_became_unreadable_leaves_what_was_known(config, text, caplog):
    config.write({"auths": {"r.local": _auth("u", "kept")}})
    config.find()
    config.write(text)

    with caplog.at_level(logging.WARNING):
        assert config.find() == Credential("u", "kept")

    assert "fetch.credentials.unreadable" in caplog.text
    config.write({"auths": {"r.local": _auth("u", "new")}})
    assert config.find() == Credential("u", "new")


def test_a_helper_that_would_have_to_be_run_is_named(config):
    config.write(
        {
            "auths": {"r.local": {}, "other.local": _auth("u", "p")},
            "credsStore": "desktop",
            "credHelpers": {"cloud.local": "ecr-login"},
        }
    )

    with pytest.raises(SourceNotFoundError, match=r"docker-credential-desktop.*under auths"):
        config.find("r.local")
    with pytest.raises(SourceNotFoundError, match="docker-credential-ecr-login"):
        config.find("cloud.local")
    assert config.find("other.local") == Credential("u", "p")
    assert config.find("public.local") is None


def test_a_credential_does_not_show_itself():
    shown = repr(Credential("user", "hunter2", "token7"))

    assert not any(secret in shown for secret in ("user", "hunter2", "token7"))


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (
            'Bearer realm="https://t/x",service="s"',
            ("bearer", {"realm": "https://t/x", "service": "s"}),
        ),
        (
            "Bearer realm=https://t/x, service=s",
            ("bearer", {"realm": "https://t/x", "service": "s"}),
        ),
        ('BASIC Realm="a b"', ("basic", {"realm": "a b"})),
        ("Negotiate", ("negotiate", {})),
        ("", ("", {})),
    ],
)
def test_challenges_are_read(header, challenge):
    assert parse_challenge(header) == challenge
