"""OpenSSF Model Signing: the specification's own schemas and vectors, and what they lack.

- The data lie outside the project, in ``../shared/conformance`` or ``LINNET_CONFORMANCE_DATA``.
- ``oms-client`` speaks the protocol of the conformance suite, through the agent's own verifier.
- What the specification lets pass and a node does not is tested on both: see docs/conformance.md.
"""

import base64
import itertools
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from linnet_agent.errors import ContentRefusedError
from linnet_agent.verify.certificates import Authorities, verify_certificates
from linnet_agent.verify.directory import verify_directory
from linnet_agent.verify.envelope import parse_bundle, signing_bytes
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.oms import parse_statement
from linnet_cli.publish.keys import generate_key, load_private_key, make_signature
from linnet_cli.publish.sign import sign_model

_NEAR = Path(__file__).parents[3] / "shared" / "conformance"
DATA = Path(os.environ.get("LINNET_CONFORMANCE_DATA", str(_NEAR))) / "oms"  # noqa: TID251 - a switch for where data lie
CLIENT = Path(__file__).with_name("oms-client")
SIGNED_ON = datetime(2026, 6, 1, tzinfo=UTC)
"""Within the validity of the certificates of the specification's vector."""

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="no conformance data: set LINNET_CONFORMANCE_DATA"
)


def client(act, *argv):
    """Run the client and return its exit code and what it says."""
    done = subprocess.run(
        [sys.executable, CLIENT, act, *(str(word) for word in argv)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, done.stderr


def _read(name):
    return (DATA / "test-vectors" / f"{name}.bundle.json").read_bytes()


def _write(directory, files):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


# --- the vectors: their models are two files whose contents are their names

VECTOR_FILES = {"signme-1": b"signme-1\n", "signme-2": b"signme-2"}
KEYLESS_FILES = {"signme-1": b"signme-1", "signme-2": b"signme-2"}
KEYLESS_BY = (
    *("--identity", "stefanb@us.ibm.com"),
    *("--identity-provider", "https://sigstore.verify.ibm.com/oauth2"),
)


def _chain():
    document = json.loads(_read("valid/certificate"))
    listed = document["verificationMaterial"]["x509CertificateChain"]["certificates"]
    return [x509.load_der_x509_certificate(base64.b64decode(one["rawBytes"])) for one in listed]


@pytest.fixture
def vector_key(tmp_path):
    """The public key of the key vector: it is that of the certificate vector's leaf."""
    path = tmp_path / "key.pub"
    path.write_bytes(
        _chain()[0]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path


def _vector(name):
    return ("--bundle", DATA / "test-vectors" / f"{name}.bundle.json")


@needs_data
@pytest.mark.slow
def test_the_key_vector_verifies(tmp_path, vector_key):
    model = _write(tmp_path / "model", {**VECTOR_FILES, "ignore-me": b"", ".git/config": b""})
    ask = ("--method", "key", "--public-key", vector_key, *_vector("valid/key"))

    assert client("verify-model", "--model-path", model, *ask) == (0, "")
    (model / "signme-2").write_bytes(b"signme-2\n")
    code, says = client("verify-model", "--model-path", model, *ask)
    assert (code, "'signme-2' is sha256" in says) == (1, True)


@needs_data
def test_the_certificate_vector_verifies_up_to_its_intermediate():
    _, intermediate = _chain()  # the root is not in the data
    trusted = Authorities(roots=(intermediate,), intermediates=())

    signer = verify_certificates(_read("valid/certificate"), trusted=trusted, at=SIGNED_ON)

    assert set(parse_statement(signer.payload).files) == set(VECTOR_FILES)


@needs_data
@pytest.mark.slow
def test_the_keyless_vector_verifies(tmp_path):
    model = _write(tmp_path / "model", KEYLESS_FILES)
    ask = ("--method", "sigstore", "--model-path", model)

    assert client("verify-model", *ask, *_vector("valid/sigstore"), *KEYLESS_BY) == (0, "")
    flag, _, *issuer = KEYLESS_BY
    for who in ((flag, "eve@example.com", *issuer), (*KEYLESS_BY[:3], "https://elsewhere")):
        assert client("verify-model", *ask, *_vector("valid/sigstore"), *who)[0] == 1
    assert client("verify-model", *ask, *_vector("invalid/missing-tlog-entries"), *KEYLESS_BY)[0]


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("invalid/empty", "invalid/missing-envelope", "invalid/missing-verification-material"),
        *("invalid/missing-tlog-entries", "invalid-payload/wrong-predicate"),
    ],
)
def test_invalid_vectors_are_refused(tmp_path, vector_key, name):
    model = _write(tmp_path / "model", VECTOR_FILES)

    code, says = client(
        "verify-model",
        *("--method", "key", "--model-path", model, "--public-key", vector_key),
        *_vector(name),
    )

    assert code == 1
    assert says.startswith(("MalformedBundleError", "ValueError"))


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"), list(itertools.permutations(("key", "certificate", "sigstore"), 2))
)
def test_a_bundle_of_another_method_is_refused(tmp_path, vector_key, method, name, authority):
    model = _write(tmp_path / "model", KEYLESS_FILES if name == "sigstore" else VECTOR_FILES)
    trust = {
        "key": ("--public-key", vector_key),
        "certificate": ("--cert-chain", authority.root),
        "sigstore": KEYLESS_BY,
    }

    ask = ("--method", method, "--model-path", model, *trust[method], *_vector(f"valid/{name}"))

    assert client("verify-model", *ask)[0] == 1


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


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("method", ["key", "certificate"])
def test_what_the_client_signs_fits_the_schemas(signer, method):
    loaded = [json.loads(path.read_bytes()) for path in (DATA / "schemas").glob("*.json")]
    schemas = {schema["$id"]: schema for schema in loaded}
    raw = signer.sign(method).read_bytes()

    statement = json.loads(parse_bundle(raw).payload)
    values = {
        "bundle": json.loads(raw),
        "envelope": json.loads(raw)["dsseEnvelope"],
        "statement": statement,
        "predicate": statement["predicate"],
    }

    for name, value in values.items():
        schema = schemas[f"https://model_signing/{name}/v1.0/schema"]
        _fits(value, schema, schemas=schemas, root=schema)


@needs_data
def test_what_publishers_sign_fits_the_schemas(tmp_path):
    loaded = [json.loads(path.read_bytes()) for path in (DATA / "schemas").glob("*.json")]
    schemas = {schema["$id"]: schema for schema in loaded}
    (tmp_path / "model.onnx").write_bytes(b"weights")

    raw = sign_model(tmp_path, model="a/b", counter=17, private_key_pem=generate_key()[0])

    for name, value in (
        ("bundle", json.loads(raw)),
        ("statement", json.loads(parse_bundle(raw).payload)),
    ):
        schema = schemas[f"https://model_signing/{name}/v1.0/schema"]
        _fits(value, schema, schemas=schemas, root=schema)


# --- round trips and attacks, with keys and an authority made on the spot


class Authority:
    """A root, an intermediate and a leaf for signing code, as files."""

    def __init__(self, directory):
        self.directory = directory
        self.now = datetime.now(UTC)  # noqa: TID251 - the client reads the clock too
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "middle")}
        self.leaf_key, _ = generate_key()
        self.root = self._save("root", self.authority("root", "root"))
        self.middle = self._save("middle", self.authority("middle", "root"))

    def authority(self, subject, issuer, **window):
        basic = (x509.BasicConstraints(ca=True, path_length=None), True)
        return self._build(subject, issuer, self.keys[subject], [basic], **window)

    def leaf(self, *, purpose=ExtendedKeyUsageOID.CODE_SIGNING, **window):
        usages = dict.fromkeys(
            [
                *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
            ],
            False,
        )
        extensions = [
            (x509.KeyUsage(digital_signature=True, **usages), True),
            (x509.ExtendedKeyUsage([purpose]), False),
        ]
        key = load_private_key(self.leaf_key)
        return self._save("leaf", self._build("release", "middle", key, extensions, **window))

    def _build(self, subject, issuer, key, extensions, *, start=-1, end=1):
        def name(text):
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + timedelta(days=start))
            .not_valid_after(self.now + timedelta(days=end))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.keys[issuer], hashes.SHA256())

    def _save(self, name, certificate):
        path = self.directory / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


class Signer:
    """A model, and whoever signs and verifies it through the client."""

    def __init__(self, directory, authority):
        self.model = _write(directory / "model", {"a.bin": b"first", "sub/b.bin": b"second"})
        self.bundle = directory / "bundle.json"
        self.authority = authority
        self.private, self.public = directory / "key", directory / "key.pub"
        self.private.write_bytes(authority.leaf_key)
        self.public.write_bytes(
            load_private_key(authority.leaf_key)
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.leaf = authority.leaf()

    def sign(self, method="key", *more, code=0):
        certificates = ("--signing-cert", self.leaf, "--cert-chain", self.authority.middle)
        done, says = client(
            "sign-model",
            *("--method", method, "--model-path", self.model, "--output-bundle", self.bundle),
            *("--private-key", self.private, *(certificates if method == "certificate" else ())),
            *more,
        )
        assert done == code, says
        return self.bundle

    def verify(self, method="key", *more, model=None):
        trust = {
            "key": ("--public-key", self.public),
            "certificate": ("--cert-chain", self.authority.root),
        }
        return client(
            "verify-model",
            *("--method", method, "--model-path", model or self.model, "--bundle", self.bundle),
            *trust[method],
            *more,
        )

    def statement(self):
        return parse_statement(parse_bundle(self.bundle.read_bytes()).payload)

    def forge(self, change):
        """Sign a changed statement with the right key."""
        document = json.loads(self.bundle.read_bytes())
        payload = json.loads(parse_bundle(self.bundle.read_bytes()).payload)
        raw = change(payload)
        raw = json.dumps(payload).encode() if raw is None else raw
        signature = make_signature(load_private_key(self.authority.leaf_key), signing_bytes(raw))
        document["dsseEnvelope"]["payload"] = base64.b64encode(raw).decode()
        document["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(signature).decode()}]
        self.bundle.write_text(json.dumps(document))


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def signer(tmp_path, authority):
    return Signer(tmp_path, authority)


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["key", "certificate"])
def test_what_was_signed_verifies(signer, method):
    signer.sign(method)

    assert signer.verify(method) == (0, "")


def test_a_single_file_is_named_by_its_base_name(signer):
    signer.model = signer.model / "a.bin"
    signer.sign()

    assert set(signer.statement().files) == {"a.bin"}
    assert signer.verify() == (0, "")


def _swap(model):
    (model / "a.bin").rename(model / "c")
    (model / "sub" / "b.bin").rename(model / "a.bin")
    (model / "c").rename(model / "sub" / "b.bin")


ATTACKS = {
    "changed": lambda m: (m / "a.bin").write_bytes(b"evil!"),
    "cut off": lambda m: (m / "a.bin").write_bytes(b"firs"),
    "missing": lambda m: (m / "sub" / "b.bin").unlink(),
    "extra": lambda m: (m / "sub" / "c.bin").write_bytes(b""),
    "swapped names": _swap,
    "renamed": lambda m: (m / "a.bin").rename(m / "A.bin"),
    "git in a subdirectory": lambda m: _write(m / "sub", {".git/hooks": b"evil"}),
    "a link instead of a file": lambda m: [
        (m / "a.bin").rename(m.parent / "a"),
        (m / "a.bin").symlink_to(m.parent / "a"),
    ],
    "an extra link": lambda m: (m / "link").symlink_to("/etc/hosts"),
    "a link to a directory": lambda m: (m / "link").symlink_to(m / "sub"),
    "a FIFO": lambda m: os.mkfifo(m / "pipe"),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_model_that_is_not_what_was_signed_is_refused(signer, attack):
    signer.sign()
    attack(signer.model)

    assert signer.verify()[0] == 1


STRICTER = {
    "a payload in .git": lambda m: _write(m, {".git/hooks/post-checkout": b"evil"}),
    "a .gitattributes": lambda m: _write(m, {".gitattributes": b"evil"}),
    "what the signer has left out": lambda m: _write(m, {"notes": b"evil"}),
    "mode 4777": lambda m: (m / "a.bin").chmod(0o4777),
    "a hard link": lambda m: os.link(m / "a.bin", m.parent / "other"),
    "an extra directory": lambda m: (m / "extra").mkdir(),
}


@pytest.mark.parametrize("attack", STRICTER.values(), ids=STRICTER)
def test_what_the_specification_lets_pass_a_node_refuses(signer, attack):
    """Each row is one that ``model_signing`` 1.1.1 accepts: research/signing.md, section 2."""
    signer.sign("key", "--ignore-paths", signer.model / "notes")
    for path in signer.model.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    verify_directory(signer.model, signer.statement())
    (signer.model / "sub").chmod(0o755)
    attack(signer.model)

    assert signer.verify() == (0, "")
    with pytest.raises(ContentRefusedError):
        verify_directory(signer.model, signer.statement())


def test_unsigned_files_do_no_harm_where_that_is_asked_for(signer):
    signer.sign()
    (signer.model / "extra").write_bytes(b"")

    assert signer.verify()[0] == 1
    assert signer.verify("key", "--ignore-unsigned-files") == (0, "")
    assert signer.verify("key", "--ignore-paths", signer.model / "extra") == (0, "")
    assert signer.verify("key", "--ignore-paths", "extra") == (0, "")
    (signer.model / "a.bin").write_bytes(b"evil!")
    assert signer.verify("key", "--ignore-unsigned-files")[0] == 1


def test_a_signed_file_counts_although_it_is_to_be_ignored(signer):
    signer.sign()
    (signer.model / "a.bin").write_bytes(b"evil!")

    assert signer.verify("key", "--ignore-paths", signer.model / "a.bin")[0] == 1


def test_the_bundle_itself_may_lie_in_the_model(signer):
    signer.bundle = signer.model / "model.sig"
    signer.sign()

    assert set(signer.statement().files) == {"a.bin", "sub/b.bin"}
    assert signer.verify() == (0, "")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: [path.unlink() for path in m.rglob("*.bin")], id="empty"),
        pytest.param(lambda m: (m / "link").symlink_to(m / "a.bin"), id="a link"),
        pytest.param(lambda m: (m / "A.BIN").write_bytes(b""), id="equal but for case"),
        pytest.param(
            lambda m: Path(os.fsdecode(os.fsencode(m) + b"/\xff")).write_bytes(b""), id="not UTF-8"
        ),
    ],
)
def test_what_cannot_be_a_model_is_not_signed(signer, change):
    change(signer.model)

    signer.sign(code=1)

    assert not signer.bundle.exists()


def _edit(field, value):
    def change(statement):
        statement["predicate"]["serialization"][field] = value

    return change


def _shards(statement):
    _edit("method", "shards")(statement)
    _edit("shard_size", 1000)(statement)
    for resource in statement["predicate"]["resources"]:
        resource["name"] += ":0:5"


def _resources(edit):
    def change(statement):
        edit(statement["predicate"]["resources"])

    return change


FORGERIES = {
    "empty": _resources(list.clear),
    "shards": _shards,
    "a duplicated name": _resources(lambda listed: listed.append(listed[0])),
    "a duplicated key": lambda s: (
        json.dumps(s).encode().replace(b'{"_type"', b'{"_type":1,"_type"')
    ),
    "a name with ..": _resources(lambda listed: listed[0].update(name="../a.bin")),
    "an absolute name": _resources(lambda listed: listed[0].update(name="/a.bin")),
    "names equal but for case": _resources(
        lambda listed: listed.append({**listed[0], "name": "A.BIN"})
    ),
    "swapped digests": _resources(
        lambda listed: (
            listed[0].update(digest=listed[1]["digest"]),
            listed[1].update(digest=listed[0]["digest"]),
        )
    ),
    "another algorithm": _resources(lambda listed: listed[0].update(algorithm="blake3")),
    "followed links": _edit("allow_symlinks", True),
    "another hash": _edit("hash_type", "blake2b"),
    "two subjects": lambda s: s["subject"].append(s["subject"][0]),
    "another subject": lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
    "the old predicate": lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_statement_that_is_not_one_is_refused_although_it_is_signed(signer, forgery):
    signer.sign()
    signer.forge(lambda _: None)
    assert signer.verify() == (0, "")
    signer.forge(forgery)
    assert load_public_key(signer.public.read_text()).verifies(
        parse_bundle(signer.bundle.read_bytes())
    )

    assert signer.verify()[0] == 1


def test_a_signer_who_leaves_everything_out_hides_nothing(signer):
    signer.sign()
    signer.forge(_edit("ignore_paths", ["."]))
    assert signer.verify() == (0, "")

    (signer.model / "extra").write_bytes(b"")
    assert signer.verify()[0] == 1
    (signer.model / "extra").unlink()
    signer.forge(_edit("ignore_paths", [".", "a.bin", "sub"]))
    assert signer.verify()[0] == 1


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        pytest.param({"start": -9, "end": -2}, "not valid", id="expired"),
        pytest.param({"start": 2, "end": 9}, "not valid", id="not yet valid"),
        pytest.param({"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, "codeSigning", id="TLS server"),
    ],
)
def test_a_leaf_that_does_not_count_is_refused(signer, leaf, says):
    signer.leaf = signer.authority.leaf(**leaf)
    signer.sign("certificate")

    code, told = signer.verify("certificate")

    assert (code, says in told) == (1, True)


@pytest.mark.parametrize("name", ["root", "middle"])
def test_a_retired_authority_is_refused(signer, name):
    window = {"start": -9, "end": -2}
    certificate = signer.authority.authority(name, "root", **window)
    setattr(signer.authority, name, signer.authority._save(name, certificate))
    signer.sign("certificate")

    code, told = signer.verify("certificate")

    assert (code, "not valid" in told) == (1, True)


def test_another_authority_or_key_is_refused(signer, tmp_path):
    signer.sign("certificate")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = Authority(elsewhere)
    stranger, _ = generate_key()
    (elsewhere / "key").write_bytes(stranger)

    assert signer.verify("certificate", "--cert-chain", other.root) == (0, "")
    signer.authority.root = other.root
    assert signer.verify("certificate")[0] == 1
    signer.private = elsewhere / "key"
    signer.bundle.unlink()
    signer.sign("certificate", code=1)
    signer.sign("key")
    assert signer.verify("key")[0] == 1
