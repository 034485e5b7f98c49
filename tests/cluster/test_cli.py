"""The CLI as people run it, on a real API server: reading, acts, logins, refusals in words."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import yaml

from linnet_testbed.errors import TestbedError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
DIGEST = "sha256:" + "a" * 64
LINNET = Path(sys.executable).with_name("linnet")


@pytest.fixture
def namespace(bed):
    name = f"cli-{uuid.uuid4().hex[:6]}"
    bed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    bed.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def linnet(bed):
    """Run the installed command: ``linnet("status", kubeconfig=...)``."""

    def run(*argv, kubeconfig=None, program=LINNET, check=None):
        env = {**os.environ, "KUBECONFIG": str(kubeconfig or bed.kubeconfig)}  # noqa: TID251 - a child's environment
        done = subprocess.run(
            [program, *argv], capture_output=True, text=True, env=env, check=False
        )
        assert check is None or done.returncode == check, done.stderr or done.stdout
        return done

    return run


@pytest.fixture
def rollout(bed, namespace):
    """A deployment with a running rollout, as the operator would have written them."""
    bed.apply(
        [
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": "digits", "namespace": namespace},
                "spec": {
                    "source": "oci://registry.testbed/models/digits:1.1",
                    "nodes": {"matchLabels": {"linnet.dev/fleet": "nobody"}},
                },
            },
            {
                "apiVersion": "linnet.dev/v1alpha1",
                "kind": "ModelRollout",
                "metadata": {"name": "digits-1", "namespace": namespace},
                "spec": {
                    "deployment": {"name": "digits", "uid": "u"},
                    "to": {"revision": "0123456789", "digest": DIGEST, "number": 1},
                    "policy": {"steps": [{"nodes": 1}]},
                },
            },
        ]
    )
    report(bed, namespace, "modeldeployment", "digits", {"rollout": "digits-1"})
    report(bed, namespace, "modelrollout", "digits-1", {"phase": "Baking", "step": 1})
    return "digits-1"


def report(bed, namespace, kind, name, status):
    patch = json.dumps({"status": {"observedGeneration": 1, **status}})
    bed.kubectl(
        "patch", kind, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch
    )


def acts(bed, namespace, rollout="digits-1"):
    return bed.get("modelrollout", rollout, "-n", namespace)["spec"].get("acts", [])


def kubeconfig_of(bed, path, **user):
    """Write a kubeconfig to the bed's cluster with another login."""
    config = yaml.safe_load(bed.kubeconfig.read_text())
    config["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(config))
    return path


def person(bed, tmp_path, namespace, name, *roles):
    """Return a kubeconfig of a ServiceAccount with these ClusterRoles in the namespace."""
    bed.kubectl("create", "serviceaccount", name, "-n", namespace)
    for role in roles:
        bed.kubectl(
            "create",
            "rolebinding",
            f"{name}-{role}",
            "-n",
            namespace,
            f"--clusterrole={role}",
            f"--serviceaccount={namespace}:{name}",
        )
    token = bed.kubectl("create", "token", name, "-n", namespace).strip()
    return kubeconfig_of(bed, tmp_path / name, token=token)


def test_status_of_an_empty_cluster_and_of_a_rollout(namespace, linnet, rollout):
    assert "no ModelDeployments" in linnet("status", "-n", "kube-public", check=0).stderr

    done = linnet("status", "digits", "-n", namespace, check=0)

    assert done.stderr == ""
    assert f"rollout {rollout}" in done.stdout
    assert "Baking" in done.stdout


@pytest.mark.usefixtures("rollout")
def test_a_name_that_does_not_exist_lists_the_one_that_does(namespace, linnet):
    said = linnet("status", "digits", check=1).stderr

    assert "there is one in" in said
    assert namespace in said


@pytest.mark.usefixtures("rollout")
def test_acts_are_appended_under_the_name_of_the_requester(bed, namespace, linnet, tmp_path):
    ana = person(bed, tmp_path, namespace, "ana", "linnet-view", "linnet-approver")

    linnet("pause", "digits", "-n", namespace, "--reason", "look first", kubeconfig=ana, check=0)
    linnet("resume", "digits", "-n", namespace, check=0)

    first, second = acts(bed, namespace)
    assert first["by"] == f"system:serviceaccount:{namespace}:ana"
    assert (first["verb"], first["reason"], second["verb"]) == ("Pause", "look first", "Resume")
    assert second["by"] != first["by"]


def test_nobody_acts_under_another_name_or_takes_an_act_away(bed, namespace, linnet, rollout):
    linnet("pause", "digits", "-n", namespace, check=0)
    mine = acts(bed, namespace)
    forged = {"id": "forged", "verb": "Abort", "by": "somebody-else"}

    def patch(wanted):
        bed.kubectl(
            "patch",
            "modelrollout",
            rollout,
            "-n",
            namespace,
            "--type=merge",
            "-p",
            json.dumps({"spec": {"acts": wanted}}),
        )

    with pytest.raises(TestbedError, match="an act carries the name of who adds it"):
        patch([*mine, forged])
    with pytest.raises(TestbedError, match="append-only"):
        patch([])
    assert acts(bed, namespace) == mine


@pytest.mark.usefixtures("rollout")
def test_acts_of_two_people_at_once_are_both_kept(bed, namespace):
    env = {**os.environ, "KUBECONFIG": str(bed.kubeconfig)}  # noqa: TID251 - a child's environment
    running = [
        subprocess.Popen([LINNET, verb, "digits", "-n", namespace], env=env, stderr=subprocess.PIPE)
        for verb in ("pause", "resume", "pause", "resume")
    ]

    assert [(each.communicate()[1], each.returncode)[1] for each in running] == [0, 0, 0, 0]
    assert sorted(act["verb"] for act in acts(bed, namespace)) == [
        "Pause",
        "Pause",
        "Resume",
        "Resume",
    ]


@pytest.mark.usefixtures("rollout")
def test_who_may_only_look_is_told_so(bed, namespace, linnet, tmp_path):
    eve = person(bed, tmp_path, namespace, "eve", "linnet-view")

    linnet("status", "digits", "-n", namespace, kubeconfig=eve, check=0)
    refused = linnet("abort", "digits", "-n", namespace, kubeconfig=eve, check=1)

    assert "forbidden" in refused.stderr
    assert "ask who runs the cluster for a role" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert acts(bed, namespace) == []


def test_an_unknown_token_and_a_dead_server_are_each_one_sentence(bed, linnet, tmp_path):
    stranger = kubeconfig_of(bed, tmp_path / "stranger", token="no-such-token")  # noqa: S106 - it opens nothing
    config = yaml.safe_load(bed.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    dead = tmp_path / "dead"
    dead.write_text(yaml.safe_dump(config))

    unknown = linnet("status", kubeconfig=stranger, check=1)
    refused = linnet("status", kubeconfig=dead, check=1)

    assert "does not know you (401)" in unknown.stderr
    assert "connection refused at https://127.0.0.1:9" in refused.stderr


def test_a_foreign_certificate_is_not_trusted_unless_asked(bed, linnet, tmp_path):
    config = yaml.safe_load(bed.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    if not cluster["server"].startswith("https") or "certificate-authority-data" not in cluster:
        pytest.skip("this cluster's kubeconfig names no CA")
    del cluster["certificate-authority-data"]
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))

    assert "is not trusted" in linnet("status", kubeconfig=path, check=1).stderr
    cluster["insecure-skip-tls-verify"] = True
    path.write_text(yaml.safe_dump(config))
    linnet("status", kubeconfig=path, check=0)


def test_a_login_that_only_kubectl_knows_goes_through_kubectl(
    bed, namespace, linnet, rollout, tmp_path
):
    token = yaml.safe_load(bed.kubeconfig.read_text())["users"][0]["user"]["token"]
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token},
    }
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "echo",
        "args": [json.dumps(credential)],
        "interactiveMode": "Never",
    }
    path = kubeconfig_of(bed, tmp_path / "exec", exec=plugin)

    status = linnet("status", "digits", "-n", namespace, kubeconfig=path, check=0)
    linnet("pause", "digits", "-n", namespace, kubeconfig=path, check=0)
    missing = linnet("status", "nope", "-n", namespace, kubeconfig=path, check=1)

    assert f"rollout {rollout}" in status.stdout
    assert [act["verb"] for act in acts(bed, namespace)] == ["Pause"]
    assert "there are: digits" in missing.stderr


def test_wait_ends_as_the_rollout_does(bed, namespace, linnet, rollout):
    linnet("wait", "digits", "-n", namespace, "--timeout", "0s", check=4)

    report(
        bed,
        namespace,
        "modelrollout",
        rollout,
        {"phase": "Refused", "message": "BadSignature on 3 nodes"},
    )

    assert (
        "BadSignature"
        in linnet("wait", "digits", "-n", namespace, "--timeout", "30s", check=5).stdout
    )


def test_a_watch_in_a_pipe_prints_the_change_when_it_comes(bed, namespace, rollout):
    env = {**os.environ, "KUBECONFIG": str(bed.kubeconfig), "PYTHONUNBUFFERED": "1"}  # noqa: TID251 - a child's environment
    watching = subprocess.Popen(
        [LINNET, "status", "digits", "-n", namespace, "--watch"],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        seen = iter(watching.stdout.readline, "")
        assert any("Baking" in line for line in seen)
        report(bed, namespace, "modelrollout", rollout, {"phase": "RollingBack"})
        assert any("RollingBack" in line for line in seen)
    finally:
        watching.terminate()
        watching.communicate()


def test_as_a_plugin_it_is_kubectl_linnet(linnet):
    page = linnet("--help", program=LINNET.with_name("kubectl-linnet"), check=0).stdout

    assert page.startswith("usage: kubectl linnet COMMAND")
