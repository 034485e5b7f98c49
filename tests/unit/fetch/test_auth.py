"""Tokens: asked for where a registry says so, for reading one repository, and never given away."""

import base64
import hashlib
import json
import logging
from dataclasses import replace
from urllib.parse import parse_qs

import pytest

from linnet_agent.errors import RegistryUnavailableError, SourceNotFoundError
from linnet_agent.fetch.credentials import Credential, DockerConfig, KnownCredentials
from linnet_agent.fetch.oci import OciClient, Retry

REPOSITORY = "models/digits"
SOURCE = f"oci://registry.testbed/{REPOSITORY}:1.0"
WEIGHTS = bytes(range(251)) * 5_000
USER = Credential("robot", "hunter2")
QUICK = Retry(attempts=3, first_s=0.001, cap_s=0.002, asked_cap_s=0.002)


def _digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture
def publish(registry):
    def _publish(repository=REPOSITORY):
        registry.blobs[_digest(WEIGHTS)] = WEIGHTS
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "layers": [
                {
                    "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                    "digest": _digest(WEIGHTS),
                    "size": len(WEIGHTS),
                    "annotations": {"org.cncf.model.filepath": "model.onnx"},
                }
            ],
        }
        return registry.put_manifest(repository, document, tag="1.0")

    return _publish


@pytest.fixture
async def make(registry, tls):
    clients = []

    def _make(credentials=None):
        mirrors = {"registry.testbed": registry.url}
        clients.append(OciClient(mirrors=mirrors, credentials=credentials, retry=QUICK, tls=tls))
        return clients[-1]

    yield _make
    for client in clients:
        await client.aclose()


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_nobody_asks_for_a_token_without_credentials(registry, publish, make):
    registry.token = "T1"  # noqa: S105 - made up

    await make().fetch_artifact(SOURCE, publish())

    (asked,) = registry.asked("/token")
    assert "authorization" not in asked.headers
    assert asked.query == {"service": ["fake"], "scope": [f"repository:{REPOSITORY}:pull"]}


async def test_a_token_is_asked_for_with_the_repositorys_credential(registry, publish, make):
    registry.token = "T1"  # noqa: S105 - made up
    known = {"registry.testbed": Credential("x", "y"), "registry.testbed/models": USER}

    await make(known).fetch_artifact(SOURCE, publish())

    (asked,) = registry.asked("/token")
    assert asked.headers["authorization"] == basic("robot", "hunter2")


async def test_an_identity_token_is_exchanged(registry, publish, make):
    registry.token = "T1"  # noqa: S105 - made up
    known = {"registry.testbed": Credential("<token>", "", "IDENTITY")}

    await make(known).fetch_artifact(SOURCE, publish())

    (asked,) = registry.asked("/token")
    assert asked.method == "POST"
    form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
    assert form["grant_type"] == "refresh_token"
    assert form["refresh_token"] == "IDENTITY"  # noqa: S105 - made up
    assert form["scope"] == f"repository:{REPOSITORY}:pull"
    assert "authorization" not in asked.headers


async def test_basic_is_answered_with_the_credential(registry, publish, make, answer):
    digest = publish()
    asks = answer(401, headers={"WWW-Authenticate": 'Basic realm="registry"'})
    registry.fail(
        "/manifests/",
        lambda request, good: (
            good if request.headers.get("authorization") == basic("robot", "hunter2") else asks
        ),
        times=99,
    )

    artifact = await make({"registry.testbed": USER}).fetch_artifact(SOURCE, digest)

    assert artifact.digest == digest


@pytest.mark.parametrize("credentials", [None, {"registry.testbed": USER}], ids=["nobody", "wrong"])
async def test_who_is_not_let_in_is_told_so_at_once(registry, publish, make, answer, credentials):
    digest = publish()
    asks = answer(401, headers={"WWW-Authenticate": 'Basic realm="registry"'})
    registry.fail("/manifests/", lambda *_: asks, times=99)

    with pytest.raises(SourceNotFoundError, match="does not let this node read"):
        await make(credentials).fetch_artifact(SOURCE, digest)

    assert len(registry.requests) <= 2


async def test_a_token_that_ends_during_a_fetch_is_renewed_and_the_fetch_resumed(
    registry, publish, make, tmp_path
):
    registry.token = "T1"  # noqa: S105 - made up
    client = make()
    artifact = await client.fetch_artifact(SOURCE, publish())

    def end_it(_, good):
        registry.token += "x"
        return replace(good, cut=300_000)

    registry.fail(_digest(WEIGHTS), end_it, times=1)
    await client.fetch_layers(artifact, into=tmp_path / "staging")

    assert (tmp_path / "staging" / "model.onnx").read_bytes() == WEIGHTS
    asked = registry.asked(_digest(WEIGHTS))
    assert [one.headers.get("authorization") for one in asked] == [
        "Bearer T1",
        "Bearer T1",
        "Bearer T1x",
    ]
    assert [one.headers.get("range") for one in asked] == [
        None,
        *[f"bytes=300000-{len(WEIGHTS) - 1}"] * 2,
    ]


async def test_a_registry_that_is_never_content_with_a_token_is_given_up(
    registry, publish, make, answer
):
    digest = publish()
    asks = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token",service="fake"'}
    registry.token = "T1"  # noqa: S105 - made up
    registry.fail("/manifests/", lambda *_: answer(401, headers=asks), times=99)

    with pytest.raises(SourceNotFoundError, match="401"):
        await make().fetch_artifact(SOURCE, digest)

    assert len(registry.asked("/token")) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_server_that_does_not_know_us_is_final(
    registry, publish, make, answer, status
):
    digest = publish()
    registry.token = "T1"  # noqa: S105 - made up
    registry.fail("/token", lambda *_: answer(status), times=99)

    with pytest.raises(SourceNotFoundError, match="does not know this node's credentials"):
        await make({"registry.testbed": USER}).fetch_artifact(SOURCE, digest)

    assert len(registry.asked("/token")) == 1


async def test_a_token_server_that_is_ill_is_asked_again(registry, publish, make, answer):
    digest = publish()
    registry.token = "T1"  # noqa: S105 - made up
    registry.fail("/token", lambda *_: answer(503, headers={"Retry-After": "1"}))
    registry.fail("/token", lambda *_: None)

    assert (await make().fetch_artifact(SOURCE, digest)).digest == digest

    registry.fail("/token", lambda *_: answer(500), times=99)
    with pytest.raises(RegistryUnavailableError, match="500"):
        await make().fetch_artifact(SOURCE, digest)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"token": 7}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX-Evil: 1"}',
        '{"token": "tök"}'.encode(),
        b"[" * 60_000,
        b'{"token": "' + b"x" * 70_000 + b'"}',
    ],
    ids=range(9),
)
async def test_what_is_no_token_is_refused(registry, publish, make, answer, body):
    digest = publish()
    registry.token = "T1"  # noqa: S105 - made up
    registry.fail("/token", lambda *_: answer(body=body), times=99)

    with pytest.raises(SourceNotFoundError):
        await make().fetch_artifact(SOURCE, digest)


@pytest.mark.parametrize(
    "realm",
    [
        "ftp://127.0.0.1/token",
        "file:///etc/passwd",
        "http://169.254.169.254/token",
        "http://[::ffff:169.254.169.254]/token",
        "//169.254.169.254/token",
        "/token",
        "http://[",
    ],
)
async def test_a_realm_where_no_token_server_is_gets_nothing(
    registry, publish, make, answer, realm
):
    digest = publish()
    asks = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    registry.fail("/manifests/", lambda *_: answer(401, headers=asks), times=99)

    with pytest.raises(SourceNotFoundError, match="refused"):
        await make({"registry.testbed": USER}).fetch_artifact(SOURCE, digest)

    assert len(registry.requests) == 1


async def test_a_redirect_of_the_token_server_is_not_followed(registry, publish, make, answer):
    digest = publish()
    registry.token = "T1"  # noqa: S105 - made up
    away = {"Location": f"{registry.url}/elsewhere"}
    registry.fail("/token", lambda *_: answer(307, headers=away), times=99)

    with pytest.raises(SourceNotFoundError, match="307"):
        await make({"registry.testbed": USER}).fetch_artifact(SOURCE, digest)

    assert not registry.asked("/elsewhere")


async def test_a_strangers_challenge_is_not_answered(registry, publish, make, answer, tmp_path):
    client = make({"registry.testbed": USER})
    artifact = await client.fetch_artifact(SOURCE, publish())
    stranger = registry.url.replace("127.0.0.1", "localhost")
    registry.fail(
        "/v2/models",
        lambda *_: answer(307, headers={"Location": f"{stranger}/stranger/x"}),
        times=99,
    )
    asks = answer(401, headers={"WWW-Authenticate": f'Bearer realm="{stranger}/token"'})
    registry.fail("/stranger/", lambda *_: asks, times=99)

    with pytest.raises(SourceNotFoundError, match="401"):
        await client.fetch_layers(artifact, into=tmp_path / "staging")

    assert registry.asked("/stranger/")
    assert not registry.asked("/token")
    assert not any("authorization" in one.headers for one in registry.asked("/stranger/"))


async def test_tokens_of_one_repository_are_not_shown_to_another(registry, publish, make):
    registry.token = "T1"  # noqa: S105 - made up
    client = make()
    digest = publish()
    publish("models/other")

    await client.fetch_artifact(SOURCE, digest)
    await client.fetch_artifact("oci://registry.testbed/models/other:1.0", digest)

    scopes = [one.query["scope"][0] for one in registry.asked("/token")]
    assert scopes == ["repository:models/digits:pull", "repository:models/other:pull"]
    first_of_other = registry.asked("/models/other/")[0]
    assert "authorization" not in first_of_other.headers


async def test_other_credentials_mean_another_token(registry, publish, make, tmp_path):
    registry.token = "T1"  # noqa: S105 - made up
    config = tmp_path / "config.json"
    client = make(DockerConfig(config))
    digest = publish()
    for password in ("one", "two"):
        config.write_text(
            json.dumps(
                {"auths": {"registry.testbed": {"username": "robot", "password": password + "!"}}}
            )
        )
        await client.fetch_artifact(SOURCE, digest)

    asked = [one.headers["authorization"] for one in registry.asked("/token")]
    assert asked == [basic("robot", "one!"), basic("robot", "two!")]


async def test_a_helper_is_named_where_it_would_have_been_needed(registry, publish, make):
    digest = publish()
    client = make(KnownCredentials({}, {"registry.testbed": "ecr-login"}))

    await client.fetch_artifact(SOURCE, digest)  # what is public needs nobody
    registry.token = "T1"  # noqa: S105 - made up
    with pytest.raises(SourceNotFoundError, match="docker-credential-ecr-login"):
        await client.fetch_artifact(SOURCE, digest)

    assert not registry.asked("/token")


async def test_no_secret_is_logged(registry, publish, make, answer, caplog):
    digest = publish()
    registry.token = "T1-very-secret"  # noqa: S105 - made up
    registry.fail("/token", lambda *_: answer(500), times=1)
    registry.fail("/manifests/", lambda *_: answer(500), times=1)
    with caplog.at_level(logging.DEBUG):
        await make({"registry.testbed": USER}).fetch_artifact(SOURCE, digest)

    said = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "fetch.retry" in said
    secret_words = ("hunter2", "robot", "T1-very-secret", basic("robot", "hunter2"))
    assert not any(secret in said for secret in secret_words)
