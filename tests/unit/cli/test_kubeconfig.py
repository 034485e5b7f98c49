"""Kubeconfig: merged as kubectl does, and everything strange goes to kubectl."""

import argparse
import base64

import pytest
import yaml

from linnet_cli.errors import KubeconfigError, UsageError
from linnet_cli.kube.connect import connect, read_seconds
from linnet_cli.kube.direct import DirectKube
from linnet_cli.kube.kubeconfig import find_access
from linnet_cli.kube.through_kubectl import KubectlKube
from linnet_cli.settings import Environment


def config(
    name, *, server="https://hub:6443", user=None, cluster=None, current=None, namespace=None
):
    context = {"cluster": name, "user": name} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current if current is not None else name,
        "clusters": [{"name": name, "cluster": {"server": server, **(cluster or {})}}],
        "contexts": [{"name": name, "context": context}],
        "users": [{"name": name, "user": {"token": f"token-{name}"} if user is None else user}],
    }


@pytest.fixture
def write(tmp_path):
    def save(name, document):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        return str(path)

    return save


def access_of(*paths, context="", proxy=False):
    environment = Environment(kubeconfigs=paths, kubeconfig_named=True, proxy=proxy)
    return find_access(environment, kubeconfig="", context=context)


def test_of_several_files_the_first_wins(write):
    one, two = write("one", config("a")), write("two", config("b", namespace="factory"))

    assert "token-a" in access_of(one, two)
    assert access_of(one, two, context="b")[:2] == ("https://hub:6443", "factory")
    assert "token-b" in access_of(one + "-missing", two)


def test_relative_paths_are_relative_to_their_file(write):
    write("deep/ca.pem", "the CA")
    write("deep/cert.pem", "the certificate")
    key = base64.b64encode(b"the key").decode()
    user = {"client-certificate": "cert.pem", "client-key-data": key}
    path = write("deep/config", config("a", user=user, cluster={"certificate-authority": "ca.pem"}))

    access = access_of(path)

    assert access.ca == "the CA"
    assert access.certificate == "the certificate\nthe key"


def test_a_token_file_is_read_afresh(write):
    token = write("token", "from-a-file\n")

    assert "from-a-file" in access_of(write("config", config("a", user={"tokenFile": token})))


@pytest.mark.parametrize(
    ("document", "context", "words"),
    [
        pytest.param(
            config("a", current=""), "", "has no current-context", id="no current context"
        ),
        pytest.param(
            config("a"), "nope", "no context 'nope' in .*; it has: a", id="no such context"
        ),
        pytest.param(config("a", server=""), "", "names no cluster with a server", id="no server"),
        pytest.param("a: [", "", "is not YAML", id="no YAML"),
        pytest.param("- a", "", "is not a kubeconfig", id="no mapping"),
        pytest.param('{"a": ', "", "is not a kubeconfig: Expecting value", id="no JSON"),
        pytest.param('{"a":' * 5000, "", "nested too deep", id="deep JSON"),
        pytest.param("a: !!bool maybe", "", "is not a kubeconfig", id="no bool"),
        pytest.param(
            config("a") | {"clusters": 7}, "", "clusters is no list of mappings", id="no list"
        ),
        pytest.param(
            config("a") | {"contexts": ["a"]}, "", "contexts is no list of mapp", id="no mappings"
        ),
        pytest.param(config("a", user=[1]), "", "user of a is no mapping", id="no user"),
        pytest.param(
            config("a", cluster={"certificate-authority-data": "/////w=="}),
            "",
            "certificate-authority-data is no PEM in Base64",
            id="no text",
        ),
        pytest.param(
            config("a", user={"tokenFile": "gone"}), "", "cannot read .*gone", id="a file is gone"
        ),
    ],
)
def test_what_cannot_be_used_is_said(write, document, context, words):
    with pytest.raises(KubeconfigError, match=words):
        access_of(write("config", document), context=context)


def test_without_any_file_it_says_where_it_looked():
    with pytest.raises(KubeconfigError, match="no kubeconfig at /nowhere/config"):
        access_of("/nowhere/config")


def test_in_a_pod_the_service_account_counts(write, tmp_path):
    for name in ("namespace", "ca.crt", "token"):
        write(name, f"the {name}\n")
    environment = Environment(
        kubeconfigs=("/nowhere",), cluster_host="10.43.0.1:443", service_account_dir=str(tmp_path)
    )

    access = find_access(environment, kubeconfig="", context="")

    assert access[:2] == ("https://10.43.0.1:443", "the namespace")
    assert (access.token, access.ca) == ("the token", "the ca.crt\n")


@pytest.mark.parametrize(
    ("document", "proxy"),
    [
        pytest.param(config("a", user={"exec": {"command": "login"}}), False, id="exec plugin"),
        pytest.param(
            config("a", user={"auth-provider": {"name": "oidc"}}), False, id="auth provider"
        ),
        pytest.param(config("a", user={"token": "t", "as": "root"}), False, id="impersonation"),
        pytest.param(
            config("a", cluster={"proxy-url": "http://p"}), False, id="proxy of the cluster"
        ),
        pytest.param(config("a"), True, id="proxy of the environment"),
    ],
)
def test_what_only_kubectl_knows_goes_to_kubectl(write, document, proxy):
    path = write("config", document)
    args = argparse.Namespace(kubeconfig=path, context=None, request_timeout="5s")

    assert access_of(path, proxy=proxy).needs_kubectl
    assert isinstance(connect(args, Environment(proxy=proxy)), KubectlKube)


def test_the_rest_goes_directly(write):
    args = argparse.Namespace(
        kubeconfig=write("config", config("a")), context=None, request_timeout="5s"
    )

    assert isinstance(connect(args, Environment()), DirectKube)


def test_a_kubectl_that_is_missing_is_named():
    kube = KubectlKube([], namespace="x", where="https://hub", program="/nowhere/kubectl")

    with pytest.raises(KubeconfigError, match="install kubectl"):
        kube.get("/version")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("30s", 30), ("1h30m", 5400), ("500ms", 0.5), ("1.5m", 90)]
)
def test_durations_are_read(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 m", "3x", "s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UsageError, match="duration"):
        read_seconds(text)
