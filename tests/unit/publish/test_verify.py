"""``linnet verify``: every step is told, and what a key alone asks for is not much."""

import argparse
import json
import subprocess
import sys

import pytest

from linnet_cli.errors import CliError, UsageError
from linnet_cli.exits import Exit
from linnet_cli.publish import keys, sign, verify


def _run(module, *argv):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(word) for word in argv]))


def _policy(workdir, name, *, key="release", models="factory/*", more=""):
    pem = (workdir / f"{key}.pub").read_text().replace("\n", "\n" + " " * 8).rstrip()
    path = workdir / f"{name}.yaml"
    path.write_text(
        f"apiVersion: linnet.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {{name: {name}}}\nspec:\n"
        f"  match: {{models: [{models}]}}\n{more}  authorities:\n  - name: {key}\n    key:\n"
        f"      publicKeyPEM: |\n        {pem}\n"
    )
    return path


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"weights")
    for name in ("release", "site"):
        _run(keys, name)
    _sign()
    return tmp_path


def _sign(*more, key="release"):
    _run(sign, "model", "--model", "factory/digits", "--counter", 17, "--key", f"{key}.key", *more)


def _verdict(capsys, *argv):
    capsys.readouterr()
    code = _run(verify, *argv, "-o", "json")
    return code, json.loads(capsys.readouterr().out)


def _outcomes(verdict):
    return {step["name"]: step["outcome"] for step in verdict["steps"]}


def test_all_is_told_where_all_is_well(workdir, capsys):
    plant, other = _policy(workdir, "plant"), _policy(workdir, "other", models="other/*")

    code, verdict = _verdict(
        capsys, "model", "--policy", plant, "--policy", other, "--ceiling", plant
    )

    assert code == Exit.OK
    assert verdict["failingStep"] is None
    assert verdict["model"] == "factory/digits"
    assert _outcomes(verdict) == {
        **dict.fromkeys(("found", "bundle", "signature", "content", "name", "counter"), "Passed"),
        "policy other": "NotApplicable",
        **dict.fromkeys(("policy plant", "policies", "ceiling"), "Passed"),
    }


@pytest.mark.parametrize(
    ("change", "argv", "reason", "step"),
    [
        pytest.param(None, ["--name", "factory/cats"], "WrongModelName", "name", id="name"),
        pytest.param(None, ["--floor", "18"], "CounterTooLow", "counter", id="counter"),
        pytest.param(None, ["--ceiling", "site.yaml"], "Ceiling", "ceiling", id="ceiling"),
        pytest.param(
            None, ["--policy", "strict.yaml"], "UntrustedKey", "policy strict", id="one policy"
        ),
        pytest.param(
            lambda d: (d / "model" / "x").write_bytes(b""),
            [],
            "ContentNotSigned",
            "content",
            id="a file",
        ),
        pytest.param(
            lambda d: (d / "model.sigstore.json").unlink(), [], "Unsigned", "bundle", id="none"
        ),
        pytest.param(
            lambda d: (d / "model.sigstore.json").write_bytes(b"{}"),
            [],
            "MalformedBundle",
            "bundle",
            id="junk",
        ),
        pytest.param(
            lambda _: _sign(key="site"), [], "UntrustedKey", "signature", id="another key"
        ),
    ],
)
def test_the_failing_step_is_named(workdir, capsys, change, argv, reason, step):
    _policy(workdir, "plant")
    _policy(workdir, "site", key="site")
    _policy(workdir, "strict", more="  require: {threshold: 2}\n")
    if change is not None:
        change(workdir)

    code, verdict = _verdict(capsys, "model", "--policy", "plant.yaml", *argv)

    assert code == Exit.REFUSED
    assert (verdict["reason"], verdict["failingStep"]) == (reason, step)
    before = verdict["steps"][: [one["name"] for one in verdict["steps"]].index(step)]
    assert {one["outcome"] for one in before} <= {"Passed", "NotApplicable"}


def test_signatures_inside_the_model_are_no_files_of_it(workdir, capsys):
    (workdir / "model.sigstore.json").rename(workdir / "model" / "model.sig")

    assert _run(verify, "model", "--key", "release.pub") == Exit.OK
    assert _run(verify, "model", "--policy", _policy(workdir, "plant")) == Exit.OK
    (workdir / "model" / "model.3.sigs").write_bytes(b"")
    assert _run(verify, "model", "--key", "release.pub") == Exit.REFUSED
    assert "'model.3.sigs' is not signed" in capsys.readouterr().out


@pytest.mark.usefixtures("workdir")
def test_several_bundles_of_which_one_is_good(capsys):
    _sign("--output", "other.json", key="site")
    bundles = ("--bundle", "other.json", "--bundle", "model.sigstore.json")

    code, verdict = _verdict(capsys, "model", "--key", "release.pub", *bundles)

    assert code == Exit.OK
    assert verdict["steps"][1]["says"] == "2 bundles"
    assert verdict["signer"].startswith("key ")


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([], id="nothing to judge by"),
        pytest.param(["--key", "release.pub", "--policy", "p.yaml"], id="two things"),
        pytest.param(["--cert-chain", "c.pem", "--floor", "1", "--ceiling", "t.yaml"], id="both"),
    ],
)
@pytest.mark.usefixtures("workdir")
def test_what_makes_no_sense_is_a_usage_error(argv):
    with pytest.raises(UsageError):
        _run(verify, "model", *argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["nowhere", "--key", "release.pub"],
        ["model", "--key", "nowhere.pub"],
        ["model", "--key", "model/model.onnx"],
        ["model", "--cert-chain", "release.pub"],
        ["model", "--policy", "release.pub"],
        ["model", "--key", "release.pub", "--bundle", "nowhere.json"],
        ["ftp://somewhere/model", "--key", "release.pub"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("workdir")
def test_what_cannot_be_read_is_an_error(argv):
    with pytest.raises(CliError) as caught:
        _run(verify, *argv)

    assert caught.value.exit == Exit.ERROR


@pytest.mark.slow
def test_a_key_alone_imports_neither_models_nor_tls_nor_yaml(workdir):
    script = (
        "import sys; import linnet_cli.__main__ as m\n"
        "sys.argv = ['linnet', 'verify', 'model', '--key', 'release.pub']\n"
        "code = m.main()\n"
        "print(int(code), *sorted({n.partition('.')[0] for n in sys.modules}))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=workdir, capture_output=True, text=True, check=True
    )

    code, *names = done.stdout.splitlines()[-1].split()
    assert int(code) == Exit.OK
    denied = {"pydantic", "httpx", "yaml", "asyncio", "ssl", "sigstore", "concurrent", "logging"}
    assert denied & set(names) == set()
