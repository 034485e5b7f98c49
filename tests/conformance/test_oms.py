"""The key method of OpenSSF Model Signing, against the specification's own vectors.

The data lie outside the project, in ``../shared/conformance`` or ``LINNET_CONFORMANCE_DATA``.
"""

import json
import os
from pathlib import Path

import pytest

from linnet_agent.errors import MalformedBundleError
from linnet_agent.verify.envelope import Method, parse_bundle
from linnet_agent.verify.oms import parse_statement
from linnet_cli.publish.keys import generate_key
from linnet_cli.publish.sign import sign_model

_NEAR = Path(__file__).parents[3] / "shared" / "conformance"
DATA = Path(os.environ.get("LINNET_CONFORMANCE_DATA", str(_NEAR))) / "oms"  # noqa: TID251 - a switch for where data lie

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="no conformance data: set LINNET_CONFORMANCE_DATA"
)


def _read(name):
    return (DATA / "test-vectors" / f"{name}.bundle.json").read_bytes()


def test_the_key_vector_is_read_whole():
    bundle = parse_bundle(_read("valid/key"))
    statement = parse_statement(bundle.payload)

    assert bundle.key_hint == "e8450dec4eb99dae995da9af1bc2cc9f76ed669ee2e744f57abba763df3e3f8e"
    assert statement.model == "model"
    assert statement.counter is None
    assert set(statement.files) == {"signme-1", "signme-2"}


@pytest.mark.parametrize(
    "name",
    [
        "invalid/empty",
        "invalid/missing-envelope",
        "invalid/missing-verification-material",
    ],
)
def test_invalid_bundles_are_refused(name):
    with pytest.raises(MalformedBundleError):
        parse_bundle(_read(name))


@pytest.mark.parametrize(
    ("name", "method"),
    [("valid/certificate", Method.CERTIFICATES), ("valid/sigstore", Method.KEYLESS)],
)
def test_the_other_methods_are_told_apart(name, method):
    assert parse_bundle(_read(name)).method is method


def test_another_predicate_is_refused():
    bundle = parse_bundle(_read("invalid-payload/wrong-predicate"))

    with pytest.raises(MalformedBundleError, match="predicateType"):
        parse_statement(bundle.payload)


def _fits(value, schema, *, schemas, root):
    """Check the part of JSON Schema that the four schemas use for required fields and constants."""
    if "$ref" in schema:
        reference = schema["$ref"]
        if reference.startswith("#/$defs/"):
            return _fits(value, root["$defs"][reference[8:]], schemas=schemas, root=root)
        return _fits(value, schemas[reference], schemas=schemas, root=schemas[reference])
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    if "type" in schema and isinstance(schema["type"], str):
        assert isinstance(value, kinds[schema["type"]]), (value, schema)
    if "const" in schema:
        assert value == schema["const"]
    if "enum" in schema:
        assert value in schema["enum"]
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), (value, schema)
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            assert set(value) <= set(properties)
        for name in set(properties) & set(value):
            _fits(value[name], properties[name], schemas=schemas, root=root)
    if isinstance(value, list) and "items" in schema:
        assert schema.get("minItems", 0) <= len(value)
        for item in value:
            _fits(item, schema["items"], schemas=schemas, root=root)
    return None


def test_our_own_bundles_fit_the_schemas(tmp_path):
    loaded = [json.loads(path.read_bytes()) for path in (DATA / "schemas").glob("*.json")]
    schemas = {schema["$id"]: schema for schema in loaded}
    (tmp_path / "model.onnx").write_bytes(b"weights")
    private, _ = generate_key()

    raw = sign_model(tmp_path, model="factory/digits", counter=17, private_key_pem=private)

    for name, value in (
        ("bundle", json.loads(raw)),
        ("statement", json.loads(parse_bundle(raw).payload)),
    ):
        schema = schemas[f"https://model_signing/{name}/v1.0/schema"]
        _fits(value, schema, schemas=schemas, root=schema)
