import argparse
import json
import os
import re

import pytest

from linnet_cli.errors import CliError
from linnet_cli.exits import Exit
from linnet_cli.publish import keys, push, sign, verify


def _run(module, *argv):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(word) for word in argv]))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"weights")
    _run(keys, "release")
    return tmp_path


def _sign(*more, model="factory/digits"):
    key = ("--key", "release.key")
    return _run(sign, "model", "--model", model, "--counter", 17, *key, *more)


def _verify(*more, model="factory/digits"):
    return _run(verify, "model", "--model", model, "--key", "release.pub", *more)


def test_a_key_is_private_and_never_overwritten(workdir):
    assert (workdir / "release.key").stat().st_mode & 0o777 == 0o600

    with pytest.raises(CliError, match="not overwritten"):
        _run(keys, "release")


def test_what_was_signed_verifies(workdir, capsys):
    assert _sign() == Exit.OK
    assert (workdir / "model.sigstore.json").exists()
    assert _verify() == Exit.OK

    assert "allowed: factory/digits, counter 17" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "flags", "reason", "step"),
    [
        pytest.param(
            lambda d: (d / "model.sigstore.json").unlink(), [], "Unsigned", "bundle", id="none"
        ),
        pytest.param(
            lambda d: (d / "model" / "model.onnx").write_bytes(b"evil"),
            [],
            "ContentNotSigned",
            "content",
            id="changed",
        ),
        pytest.param(lambda _: None, ["--floor", 18], "CounterTooLow", "counter", id="old"),
    ],
)
def test_a_refusal_ends_with_5_and_names_the_step(workdir, capsys, change, flags, reason, step):
    _sign()
    change(workdir)
    capsys.readouterr()

    assert _verify(*flags) == Exit.REFUSED

    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"refused ({reason}) at step {step}: ")
    assert re.search(rf"^{step} +FAILED ", out, re.MULTILINE)


@pytest.mark.usefixtures("workdir")
def test_a_verdict_can_be_read_by_programs(capsys):
    _sign()
    capsys.readouterr()

    assert _verify("-o", "json", model="factory/cats") == Exit.REFUSED

    verdict = json.loads(capsys.readouterr().out)
    assert verdict["allowed"] is False
    assert verdict["reason"] == "WrongModelName"
    assert verdict["failingStep"] == "name"
    assert [step["outcome"] for step in verdict["steps"]] == [
        *["Passed"] * 3,
        "Failed",
        *["NotReached"] * 2,
    ]


def test_policies_and_a_ceiling_are_asked_as_a_node_asks_them(workdir, capsys):
    _sign()
    _run(keys, "site")
    for name in ("release", "site"):
        pem = (workdir / f"{name}.pub").read_text().replace("\n", "\n" + " " * 8).rstrip()
        (workdir / f"{name}.yaml").write_text(
            "apiVersion: linnet.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: p}\nspec:\n"
            "  match: {models: [factory/*]}\n  authorities:\n  - name: release\n    key:\n"
            f"      publicKeyPEM: |\n        {pem}\n"
        )
    ask = ("model", "--model", "factory/digits", "--trust", "release.yaml")

    assert _run(verify, *ask) == Exit.OK
    assert _run(verify, *ask, "--ceiling", "release.yaml") == Exit.OK
    assert _run(verify, *ask, "--ceiling", "site.yaml") == Exit.REFUSED
    assert "(Ceiling)" in capsys.readouterr().out
    with pytest.raises(CliError, match="no such file"):
        _run(verify, *ask, "--ceiling", "nowhere.yaml")


@pytest.mark.usefixtures("workdir")
def test_a_single_file_is_a_model_too(capsys):
    key = ("--key", "release.key")
    file = "model/model.onnx"
    _run(sign, file, "--model", "a/b", "--counter", 1, *key, "--output", "b.json")

    asked = (file, "--model", "a/b", "--key", "release.pub", "--bundle", "b.json")
    assert _run(verify, *asked) == Exit.OK
    assert "1 files" in capsys.readouterr().out


def test_a_bundle_in_the_model_is_refused(workdir):
    with pytest.raises(CliError, match="cannot sign itself"):
        _sign("--output", workdir / "model" / "bundle.json")


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda m: (m / "link").symlink_to("/etc/hosts"), id="a link"),
        pytest.param(lambda m: (m / "MODEL.onnx").write_bytes(b""), id="equal but for case"),
        pytest.param(lambda m: os.mkfifo(m / "pipe"), id="a FIFO"),
        pytest.param(lambda m: (m / "model.onnx").unlink(), id="empty"),
    ],
)
def test_what_a_node_would_refuse_is_not_signed(workdir, attack):
    attack(workdir / "model")

    with pytest.raises(CliError, match="cannot be signed"):
        _sign()


@pytest.mark.parametrize("counter", [-1, 2**53 + 1])
def test_a_counter_out_of_range_is_not_signed(workdir, counter):
    key = (workdir / "release.key").read_bytes()

    with pytest.raises(CliError, match="release-counter"):
        sign.sign_model(workdir / "model", model="a/b", counter=counter, private_key_pem=key)


@pytest.mark.parametrize("pem", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\n-----END"])
def test_a_key_that_cannot_sign_is_an_error(workdir, pem):
    with pytest.raises(CliError, match="private key"):
        sign.sign_model(workdir / "model", model="a/b", counter=1, private_key_pem=pem)


def test_a_bundle_of_another_model_is_not_pushed(workdir):
    _sign()
    (workdir / "model" / "model.onnx").write_bytes(b"other")

    with pytest.raises(CliError, match="sign it again"):
        _run(push, "model", "--to", "oci://registry.testbed/a:1")


def test_a_push_to_a_digest_or_to_nowhere_is_an_error(workdir):
    for target in ("oci://r/a@sha256:" + "0" * 64, "https://r/a"):
        with pytest.raises(CliError):
            push.push_model(workdir / "model", to=target, bundle=None, mirrors={})


@pytest.mark.slow
def test_a_registry_that_is_not_there_is_an_error(workdir):
    mirrors = {"registry.testbed": "http://127.0.0.1:1"}

    with pytest.raises(CliError, match="cannot be reached"):
        push.push_model(
            workdir / "model", to="oci://registry.testbed/a:1", bundle=None, mirrors=mirrors
        )


def _grant(*more, model="factory/digits", counter=17):
    given = ("--grant", "--model", model, "--counter", counter, "--key", "release.key")
    return _run(sign, "model", *given, "--not-after", "2999-01-01T00:00:00Z", *more)


def _trust(workdir):
    pem = (workdir / "release.pub").read_text().replace("\n", "\n" + " " * 8).rstrip()
    (workdir / "trust.yaml").write_text(
        "apiVersion: linnet.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: p}\nspec:\n"
        f"  authorities:\n  - name: release\n    key:\n      publicKeyPEM: |\n        {pem}\n"
    )
    return ("model", "--policy", "trust.yaml", "--floor", 20)


def test_a_grant_lets_a_node_go_below_its_floor(workdir, capsys):
    _sign()
    ask = _trust(workdir)
    assert _run(verify, *ask) == Exit.REFUSED

    assert _grant() == Exit.OK
    granted = ("--bundle", "model.sigstore.json", "--bundle", "model.grant.sigstore.json")

    assert _run(verify, *ask, *granted) == Exit.OK
    assert "granted factory/digits counter 17 on every node" in capsys.readouterr().out

    place = f"file://{workdir}/stick/model"
    attached = ("--grant", "model.grant.sigstore.json")
    assert _run(push, "model", "--to", place, *attached) == Exit.OK
    assert _run(verify, place, *ask[1:]) == Exit.OK


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param({"model": "factory/cats"}, "signed as factory/digits", id="name"),
        pytest.param({"counter": 16}, "counter 17", id="counter"),
    ],
)
@pytest.mark.usefixtures("workdir")
def test_a_grant_is_for_a_model_as_it_is_signed(flags, says):
    _sign()

    with pytest.raises(CliError, match=says):
        _grant(**flags)


@pytest.mark.parametrize("ends", ["2999-01-01T00:00:00", "tomorrow"])
@pytest.mark.usefixtures("workdir")
def test_a_grant_ends_at_a_time_with_a_zone(ends):
    _sign()

    with pytest.raises(CliError, match="2026-12-01T00:00:00Z"):
        _grant("--not-after", ends)


@pytest.mark.usefixtures("workdir")
def test_a_grant_without_an_end_is_a_usage_error():
    with pytest.raises(CliError, match="go together"):
        _sign("--grant")
