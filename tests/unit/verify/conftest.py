"""Keys, signed models and policies, made on the spot."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from linnet_agent.verify.artifact import verify_artifact
from linnet_agent.verify.ceiling import Ceiling
from linnet_agent.verify.envelope import signing_bytes
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.manifest import Artifact, parse_manifest
from linnet_api.trust_policy import TrustPolicySpec
from linnet_cli.publish.keys import generate_key, load_private_key, make_signature
from linnet_cli.publish.statement import build_bundle, build_statement, canonical_json

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SOURCE = "oci://registry.testbed/models/digits:1.0"


@dataclass(frozen=True)
class Signer:
    private: bytes
    public: str
    key_id: str

    def bundle(self, payload):
        signature = make_signature(load_private_key(self.private), signing_bytes(payload))
        return build_bundle(payload, signature=signature, key_id=self.key_id)


class Workshop:
    """Makes what a test needs, and asks for the verdict."""

    def __init__(self, signers):
        self.release, self.audit, self.rogue = signers
        self.source = SOURCE

    def digest(self, content):
        return "sha256:" + hashlib.sha256(content).hexdigest()

    def files(self, **contents):
        contents = contents or {"model.onnx": b"weights", "golden.json": b"{}"}
        return {name: self.digest(content) for name, content in contents.items()}

    def statement(self, files=None, *, model="factory/digits", counter=17):
        return build_statement(files or self.files(), model=model, counter=counter)

    def manifest(self, files=None):
        raw = canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": "application/vnd.cncf.model.manifest.v1+json",
                "layers": [
                    {
                        "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                        "digest": digest,
                        "size": 7,
                        "annotations": {"org.cncf.model.filepath": name},
                    }
                    for name, digest in (files or self.files()).items()
                ],
            }
        )
        return parse_manifest(raw, digest=self.digest(raw))

    def artifact(self, *bundles, files=None):
        return Artifact(SOURCE, self.manifest(files), tuple(bundles))

    def policy(self, *signers, **spec):
        return TrustPolicySpec.model_validate(
            {
                "authorities": [
                    {"name": f"a{index}", "key": {"publicKeyPEM": signer.public}}
                    for index, signer in enumerate(signers or (self.release,))
                ],
                **spec,
            },
            extra="forbid",
        )

    def judge(self, artifact, *policies, ceiling=None, floor=None, model="factory/digits", **more):
        return verify_artifact(
            artifact,
            expected_model=model,
            policies={f"p{index}": policy for index, policy in enumerate(policies)},
            ceiling=None
            if ceiling is None
            else Ceiling({f"limit-{index}": spec for index, spec in enumerate(ceiling)}),
            floor=floor,
            **({"now": NOON} | more),
        )


@pytest.fixture(scope="session")
def workshop():
    signers = []
    for _ in range(3):
        private, public = generate_key()
        text = public.decode()
        signers.append(Signer(private, text, load_public_key(text).key_id))
    return Workshop(signers)
