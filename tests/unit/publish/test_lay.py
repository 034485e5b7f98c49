"""A model in a directory is what a node reads there, or nothing."""

import argparse

import pytest

from linnet_agent.fetch.directory import DirectoryClient
from linnet_agent.fetch.variants import Capabilities, VariantChoice
from linnet_agent.verify.directory import hash_directory
from linnet_cli.errors import CliError
from linnet_cli.exits import Exit
from linnet_cli.publish import keys, push, sign

NODE = Capabilities(arch="amd64", runtimes=frozenset({"onnx"}))


def run(module, *argv):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(word) for word in argv]))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "int8"):
        (tmp_path / name / "tokens").mkdir(parents=True)
        (tmp_path / name / "model.onnx").write_bytes(name.encode() * 1000)
        (tmp_path / name / "tokens" / "vocab.txt").write_bytes(b"a b c")
    run(keys, "release")
    for name in ("model", "int8"):
        run(sign, name, "--model", "factory/digits", "--counter", 17, "--key", "release.key")
    return tmp_path


def digest_in(out):
    return next(line.split()[1] for line in out.splitlines() if line.startswith("  digest:"))


async def fetch(stick, digest, into, *wanted):
    client = DirectoryClient(roots=[stick.parent])
    accepts = VariantChoice(wanted=wanted, capabilities=NODE)
    artifact = await client.fetch_artifact(f"file://{stick}", digest, accepts=accepts)
    await client.fetch_layers(artifact, into=into)
    return artifact


async def test_a_node_reads_what_was_laid(workdir, capsys):
    stick = workdir / "stick" / "digits-1.0"

    assert run(push, "model", "--to", f"file://{stick}") == Exit.OK

    artifact = await fetch(stick, digest_in(capsys.readouterr().out), workdir / "staged")
    assert artifact.bundles == ((workdir / "model.sigstore.json").read_bytes(),)
    assert hash_directory(workdir / "staged") == hash_directory(workdir / "model")


async def test_a_node_chooses_from_the_variants_that_were_laid(workdir, capsys):
    stick = workdir / "stick" / "digits-1.0"
    variants = ("--variant", "onnx-int8=int8", "--variant", "onnx=model")

    assert run(push, *variants, "--to", f"file://{stick}") == Exit.OK

    digest = digest_in(capsys.readouterr().out)
    for wanted, name in (("onnx-int8", "int8"), ("onnx", "model")):
        artifact = await fetch(stick, digest, workdir / "staged", wanted)
        assert artifact.variant == wanted
        assert artifact.bundles == ((workdir / f"{name}.sigstore.json").read_bytes(),)
        assert hash_directory(workdir / "staged") == hash_directory(workdir / name)


def test_a_directory_and_a_registry_give_one_digest(workdir):
    one = push._read(workdir / "model", bundle=None)

    assert push.publish(one, to=f"file://{workdir}/a", mirrors={}) == one.digest


def test_what_is_there_is_not_overwritten(workdir):
    (workdir / "there").mkdir()
    (workdir / "there" / "x").touch()

    with pytest.raises(CliError, match="there already"):
        run(push, "model", "--to", f"file://{workdir}/there")
    assert [path.name for path in (workdir / "there").iterdir()] == ["x"]


def test_what_changes_while_it_is_copied_leaves_nothing_that_looks_whole(workdir):
    one = push._read(workdir / "model", bundle=None)
    (workdir / "model" / "model.onnx").write_bytes(b"another")

    with pytest.raises(CliError, match="has changed"):
        push.publish(one, to=f"file://{workdir}/stick", mirrors={})

    assert not (workdir / "stick").exists()
    run(sign, "model", "--model", "factory/digits", "--counter", 18, "--key", "release.key")
    run(push, "model", "--to", f"file://{workdir}/stick")
    assert (workdir / "stick" / "model.onnx").read_bytes() == b"another"


@pytest.mark.parametrize("name", ["manifest.json", "model.sig", "model.2.sig"])
def test_a_name_that_the_directory_needs_is_refused(workdir, name):
    (workdir / "model" / name).write_bytes(b"{}")
    (workdir / "model.sigstore.json").unlink()

    with pytest.raises(CliError, match="rename it"):
        run(push, "model", "--to", f"file://{workdir}/stick")


@pytest.mark.parametrize(
    ("argv", "fact"),
    [
        (["model", "--to", "https://models.example.org/m"], "upload"),
        (["model", "--to", "file://relative/path"], "file:///"),
        (["--to", "oci://r/m:1"], "--variant"),
        (["model", "--variant", "onnx=int8", "--to", "oci://r/m:1"], "either"),
        (["--variant", "onnx", "--to", "oci://r/m:1"], "NAME=DIR"),
        (["--variant", "onnx=model", "--variant", "onnx=int8", "--to", "oci://r/m:1"], "once"),
        (["--variant", "Onnx!=model", "--to", "oci://r/m:1"], "no name of a variant"),
    ],
)
@pytest.mark.usefixtures("workdir")
def test_what_cannot_be_pushed_is_said(argv, fact):
    with pytest.raises(CliError, match=fact):
        run(push, *argv)


def test_a_variant_without_a_signature_is_named(workdir, capsys):
    (workdir / "int8.sigstore.json").unlink()
    variants = ("--variant", "onnx-int8=int8", "--variant", "onnx=model")

    run(push, *variants, "--to", f"file://{workdir}/stick")

    assert "onnx-int8 without a signature" in capsys.readouterr().out
