"""Layouts that are read: ModelPack, KitOps' raw layers, ORAS; and all that is refused."""

import hashlib
import json

import pytest

from linnet_agent.errors import DigestMismatchError, UnsupportedArtifactError
from linnet_agent.verify.manifest import Layer, parse_index, parse_manifest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def digest(raw):
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def read(document, parse=parse_manifest):
    raw = json.dumps(document).encode()
    return parse(raw, digest=digest(raw))


def layer(media_type, *, name="model.onnx", key="org.cncf.model.filepath", **more):
    annotations = {key: name, **more.pop("annotations", {})}
    return {
        "mediaType": media_type,
        "digest": ONE,
        "size": 7,
        "annotations": annotations,
    } | more


def manifest(*layers, kind="application/vnd.cncf.model.manifest.v1+json", config=None, **more):
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": list(layers)}
    if kind:
        document["artifactType"] = kind
    document["config"] = {"mediaType": config or "application/vnd.oci.empty.v1+json", "size": 2}
    return document | more


TITLE = "org.opencontainers.image.title"
RAW = "application/vnd.cncf.model.weight.v1.raw"


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(manifest(layer(RAW)), id="ModelPack"),
        pytest.param(
            manifest(layer("application/vnd.cncf.model.weight.config.v1.raw")),
            id="ModelPack, a file of configuration",
        ),
        pytest.param(
            manifest(layer(RAW), kind=None, config="application/vnd.cncf.model.config.v1+json"),
            id="ModelPack that says so by its config",
        ),
        pytest.param(
            manifest(
                layer("application/vnd.kitops.modelkit.model.v1.raw"),
                kind="application/vnd.kitops.modelkit.manifest.v1+json",
                config="application/vnd.kitops.modelkit.config.v1+json",
                annotations={"ml.kitops.modelkit.cli-version": "1.9.0"},
            ),
            id="KitOps, raw layers",
        ),
        pytest.param(
            manifest(
                layer("application/vnd.oci.image.layer.v1.tar", key=TITLE),
                kind="application/vnd.unknown.artifact.v1",
                annotations={"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
            ),
            id="ORAS, which calls every file a tar",
        ),
        pytest.param(
            manifest(
                layer("application/octet-stream", key=TITLE),
                kind=None,
                config="application/vnd.unknown.config.v1+json",
            ),
            id="ORAS of old",
        ),
        pytest.param(
            manifest(layer(RAW, annotations={TITLE: "model.onnx"})), id="both annotations agree"
        ),
    ],
)
def test_one_layer_is_one_file_at_its_annotation(document):
    assert read(document).layers == (Layer("model.onnx", ONE, 7),)


@pytest.mark.parametrize(
    ("document", "fact"),
    [
        pytest.param(manifest(layer(form)), "archive", id=form)
        for form in (
            "application/vnd.cncf.model.weight.v1.tar",
            "application/vnd.cncf.model.weight.v1.tar+gzip",
            "application/vnd.cncf.model.weight.v1.tar+zstd",
            "application/vnd.kitops.modelkit.model.v1.tar",
            "application/vnd.kitops.modelkit.modelpart.v1.tar+gzip",
            "application/vnd.kitops.modelkit.model.v1.raw+gzip",
        )
    ]
    + [
        pytest.param(
            manifest(
                layer(
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    key=TITLE,
                    annotations={"io.deis.oras.content.unpack": "true"},
                ),
                kind="application/vnd.unknown.artifact.v1",
            ),
            "archive",
            id="ORAS, a directory",
        ),
        pytest.param(
            manifest(layer(RAW), kind=None, config="application/vnd.oci.image.config.v1+json"),
            "container image",
            id="container image",
        ),
        pytest.param(
            manifest(layer(RAW), kind="application/vnd.oci.image.config.v1+json"),
            "container image",
            id="container image as artifact",
        ),
        pytest.param(
            manifest(
                layer(RAW), kind=None, config="application/vnd.docker.container.image.v1+json"
            ),
            "container image",
            id="Docker image",
        ),
        pytest.param(
            manifest(layer(RAW), kind="") | {"config": {}},
            "container image",
            id="it says nothing of itself",
        ),
        pytest.param(
            manifest(layer(RAW), mediaType="application/vnd.docker.distribution.manifest.v2+json"),
            "not an OCI image manifest",
            id="Docker manifest",
        ),
        pytest.param(
            manifest(layer(RAW, annotations={TITLE: "other.onnx"})),
            "not one raw file",
            id="two annotations, two paths",
        ),
        pytest.param(manifest(layer(RAW, key="x")), "not one raw file", id="no path"),
        pytest.param(manifest(layer(RAW, size=True)), "not one raw file", id="size is a boolean"),
        pytest.param(manifest(layer(RAW, size=-1)), "not one raw file", id="size below zero"),
        pytest.param(manifest(layer(RAW, size=2**60)), "not one raw file", id="size of no disk"),
        pytest.param(manifest(layer(RAW, digest="sha512:00")), "not one raw file", id="no sha256"),
        pytest.param(manifest(layer(RAW, name="../x.onnx")), "'..'", id="path leads out"),
        pytest.param(manifest(layer(RAW), layer(RAW, name="MODEL.onnx")), "are one", id="one name"),
        pytest.param(manifest(), "no file", id="nothing in it"),
        pytest.param(manifest() | {"layers": {}}, "no list of layers", id="layers are no list"),
        pytest.param(manifest(layer(RAW), manifests=[]), "to another", id="an index as well"),
        pytest.param(
            manifest(layer(RAW), annotations={"linnet.dev/variant": "../x"}),
            "no name of a variant",
            id="a variant of no name",
        ),
    ],
)
def test_what_is_no_set_of_raw_files_is_unsupported(document, fact):
    with pytest.raises(UnsupportedArtifactError, match=fact):
        read(document)


def test_a_refused_archive_says_how_to_pack():
    with pytest.raises(UnsupportedArtifactError, match="linnet push"):
        read(manifest(layer("application/vnd.kitops.modelkit.model.v1.tar")))


def test_a_manifest_is_known_by_its_bytes():
    raw = json.dumps(manifest(layer(RAW))).encode()

    with pytest.raises(DigestMismatchError):
        parse_manifest(raw, digest=ONE)
    with pytest.raises(DigestMismatchError):
        parse_index(raw, digest=ONE)


def entry(blob=ONE, *, variant=None, arch=None, **more):
    found = {"mediaType": MANIFEST, "digest": blob, "size": 700}
    if variant:
        found["annotations"] = {"linnet.dev/variant": variant}
    if arch:
        found["platform"] = {"architecture": arch, "os": "linux"}
    return found | more


def index(*entries, **more):
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)} | more


def test_an_index_names_its_variants():
    found = read(index(entry(variant="onnx-int8", arch="arm64"), entry(TWO)), parse_index)

    assert [(one.name, one.digest, one.arch, one.os) for one in found.variants] == [
        ("onnx-int8", ONE, "arm64", "linux"),
        ("onnx", TWO, None, None),
    ]


def test_a_manifest_is_no_index():
    assert read(manifest(layer(RAW)), parse_index) is None


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(index(), id="empty"),
        pytest.param(index(*[entry()] * 65), id="too many"),
        pytest.param(index() | {"manifests": {}}, id="no list"),
        pytest.param(index("x"), id="an entry that is text"),
        pytest.param(index(entry("sha256:00")), id="an entry of no digest"),
        pytest.param(index(entry(platform=[])), id="a platform that is a list"),
        pytest.param(index(entry(mediaType=INDEX)), id="an index in an index"),
        pytest.param(index(entry(variant="A B")), id="a variant of no name"),
        pytest.param(index(entry(), layers=[]), id="a manifest as well"),
        pytest.param(index(entry(), config={}), id="a config as well"),
    ],
)
def test_an_index_that_cannot_be_used_is_unsupported(document):
    with pytest.raises(UnsupportedArtifactError):
        read(document, parse_index)
