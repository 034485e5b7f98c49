"""The deployment's order decides, and the node takes only what it can run."""

import asyncio

import pytest

from linnet_agent.errors import WrongVariantError
from linnet_agent.fetch.variants import (
    Capabilities,
    VariantChoice,
    choose_variant,
    read_capabilities,
    require_variant,
    runtime_of,
)
from linnet_agent.verify.manifest import Artifact, Index, Manifest, Variant
from linnet_cli.publish.modelpack import pack
from linnet_cli.publish.push import publish_variants

PLAIN = Capabilities(arch="amd64", runtimes=frozenset({"onnx"}))
JETSON = Capabilities(
    arch="arm64",
    runtimes=frozenset({"onnx", "tensorrt"}),
    accelerators=frozenset({"nvidia-sm87"}),
)
ENGINE = Variant(
    name="tensorrt-fp16", digest="e", arch="arm64", os="linux", accelerator="nvidia-sm87"
)
OTHER_ENGINE = Variant(
    name="tensorrt-fp16", digest="o", arch="arm64", os="linux", accelerator="nvidia-sm72"
)
INT8 = Variant(name="onnx-int8", digest="i")
INT8_ARM = Variant(name="onnx-int8", digest="a", arch="arm64", os="linux")
FULL = Variant(name="onnx", digest="f")
ATTESTATION = Variant(name="onnx", digest="x", arch="unknown", os="unknown")
EVERYTHING = (ATTESTATION, OTHER_ENGINE, ENGINE, FULL, INT8, INT8_ARM)


def accepts(*wanted, node=PLAIN, any_runtime=False):
    return VariantChoice(wanted=wanted, capabilities=node, any_runtime=any_runtime)


def index(*variants):
    return Index(digest="sha256:x", raw=b"", variants=variants)


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        pytest.param(accepts("onnx", "onnx-int8"), "f", id="the order decides"),
        pytest.param(accepts("onnx-int8", "onnx"), "i", id="the other order"),
        pytest.param(accepts("tensorrt-fp16", "onnx"), "f", id="what it cannot run is passed over"),
        pytest.param(accepts("tensorrt-fp16", "onnx", node=JETSON), "e", id="its own accelerator"),
        pytest.param(accepts("onnx-int8", node=JETSON), "a", id="its own architecture first"),
        pytest.param(accepts(), "f", id="no order: the first in the index that it can run"),
        pytest.param(accepts(node=JETSON), "e", id="no order, a better node"),
    ],
)
def test_a_node_takes_the_first_that_is_wanted_and_that_it_can_run(choice, chosen):
    assert choose_variant(index(*EVERYTHING), accepts=choice).digest == chosen


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("onnx", "onnx"),
        ("onnx-int8", "onnx"),
        ("onnx-cuda", "onnx-cuda"),
        ("onnx-cuda-fp16", "onnx-cuda"),
        ("onnx-tensorrt-fp16", "onnx-tensorrt"),
        ("tensorrt-cuda", "tensorrt"),
        ("gguf-q4", "gguf"),
    ],
)
def test_a_variants_name_says_the_runtime_and_the_device(name, runtime):
    assert runtime_of(name) == runtime


def test_files_need_no_runtime():
    gguf = Variant(name="gguf-q4", digest="g")

    assert choose_variant(index(gguf), accepts=accepts(any_runtime=True)) == gguf


@pytest.mark.parametrize(
    ("variants", "choice", "facts"),
    [
        pytest.param(
            (ENGINE,), accepts(), ["tensorrt-fp16 (for linux/arm64)", "amd64"], id="architecture"
        ),
        pytest.param(
            (OTHER_ENGINE,), accepts(node=JETSON), ["needs nvidia-sm72"], id="accelerator"
        ),
        pytest.param(
            (Variant(name="tensorrt", digest="t"),),
            accepts(),
            ["needs the runtime tensorrt"],
            id="runtime",
        ),
        pytest.param(
            (Variant(name="onnx-cuda-fp16", digest="c"),),
            accepts(),
            ["needs the runtime onnx-cuda"],
            id="device",
        ),
        pytest.param(
            (FULL, INT8),
            accepts("onnx-int4"),
            ["onnx (not asked for)", "onnx-int4"],
            id="not there",
        ),
        pytest.param(
            tuple(Variant(name=f"v{n}", digest=str(n)) for n in range(60)),
            accepts(),
            ["and 52 more"],
            id="the sentence stays short",
        ),
        pytest.param((ATTESTATION,), accepts(), ["unknown"], id="an attestation is no model"),
        pytest.param(
            (Variant(name="onnx", digest="w", os="windows", arch="amd64"),),
            accepts(),
            ["for windows/amd64"],
            id="another system",
        ),
    ],
)
def test_where_nothing_fits_it_says_why(variants, choice, facts):
    with pytest.raises(WrongVariantError) as caught:
        choose_variant(index(*variants), accepts=choice)

    for fact in facts:
        assert fact in str(caught.value)


def alone(**annotations):
    return Artifact("oci://r/m:1", Manifest("sha256:x", b"", (), annotations), ())


@pytest.mark.parametrize(
    "choice", [accepts(), accepts("onnx"), accepts("onnx-int8", "onnx")], ids=str
)
def test_an_artifact_that_says_nothing_is_onnx(choice):
    require_variant(alone(), accepts=choice)


@pytest.mark.parametrize(
    ("artifact", "choice"),
    [
        (alone(), accepts("onnx-int8")),
        (alone(**{"linnet.dev/variant": "onnx-int8"}), accepts("onnx")),
        (alone(**{"linnet.dev/variant": "tensorrt"}), accepts()),
    ],
)
def test_an_artifact_of_another_variant_is_refused(artifact, choice):
    with pytest.raises(WrongVariantError):
        require_variant(artifact, accepts=choice)


def test_this_machine_runs_onnx():
    assert "onnx" in read_capabilities().runtimes
    assert read_capabilities().arch not in {"x86_64", "aarch64"}


@pytest.mark.slow
async def test_variants_that_were_pushed_are_chosen_from(registry, client, tmp_path, lay):
    packed = {}
    for name in ("onnx-int8", "onnx"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(name.encode())
        _, bundle = lay.signed({"model.onnx": name.encode()})
        packed[name] = pack(tmp_path / name, bundle=bundle)
    mirrors = {"registry.testbed": registry.url}
    source = "oci://registry.testbed/models/digits:1.0"

    digest = await asyncio.to_thread(publish_variants, packed, to=source, mirrors=mirrors)

    assert await client.resolve(source) == digest
    for name in ("onnx-int8", "onnx"):
        artifact = await client.fetch_artifact(source, digest, accepts=accepts(name))
        await client.fetch_layers(artifact, into=tmp_path / "staged")
        assert (artifact.digest, artifact.variant) == (digest, name)
        assert artifact.bundles == (packed[name].bundle,)
        assert (tmp_path / "staged" / "model.onnx").read_bytes() == name.encode()
    with pytest.raises(WrongVariantError, match="onnx-int4"):
        await client.fetch_artifact(source, digest, accepts=accepts("onnx-int4"))
