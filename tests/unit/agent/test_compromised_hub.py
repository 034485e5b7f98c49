"""A hub that hands out a policy with a key of its own, and a model signed with it (rule 1)."""

import hashlib
from datetime import UTC, datetime

import pytest

from linnet_agent.trust import TrustStore
from linnet_agent.verify.artifact import verify_artifact
from linnet_agent.verify.envelope import parse_bundle
from linnet_agent.verify.manifest import Artifact, parse_manifest
from linnet_agent.verify.oms import parse_statement
from linnet_api.reasons import NodeReason
from linnet_cli.publish.keys import generate_key
from linnet_cli.publish.sign import sign_model
from linnet_cli.publish.statement import canonical_json

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MODEL = "factory/digits"


class Key:
    def __init__(self):
        self.private, public = generate_key()
        self.public = public.decode()

    def policy(self, **more):
        authority = {"name": "release", "key": {"publicKeyPEM": self.public}}
        return {"authorities": [authority], **more}


class Site:
    """One node, one honest publisher, and a hub that may turn."""

    def __init__(self, path):
        self.path = path
        self.honest, self.hub = Key(), Key()
        (path / "trust").mkdir()
        self.changes = 0
        self.ceiling = path / "trust.yaml"

    def boot(self):
        self.trust = TrustStore(
            self.path / "trust",
            ceiling_file=self.ceiling,
            on_change=self._count,
            clock=lambda: NOON,
            roots_directory=self.path / "trust-roots",
        )
        self.trust.load()

    def _count(self):
        self.changes += 1

    def provision_ceiling(self, **more):
        document = {
            "apiVersion": "linnet.dev/v1alpha1",
            "kind": "TrustPolicy",
            "metadata": {"name": "site"},
            "spec": self.honest.policy(**more),
        }
        self.ceiling.write_bytes(canonical_json(document))  # JSON is YAML

    def hear(self, *specs):
        self.trust.replace({f"p{n}": {"spec": spec} for n, spec in enumerate(specs)})

    def artifact(self, key, *, counter=17):
        model = self.path / "model"
        model.mkdir(exist_ok=True)
        content = b"weights of %d" % counter
        (model / "model.onnx").write_bytes(content)
        bundle = sign_model(model, model=MODEL, counter=counter, private_key_pem=key.private)
        manifest = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "layers": [
                {
                    "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                    "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "annotations": {"org.cncf.model.filepath": "model.onnx"},
                }
            ],
        }
        raw = canonical_json(manifest)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        return Artifact("oci://r/m:1", parse_manifest(raw, digest=digest), (bundle,))

    def judge(self, artifact):
        return verify_artifact(
            artifact,
            expected_model=MODEL,
            policies=self.trust.policies,
            ceiling=self.trust.ceiling,
            roots=self.trust.roots,
            floor=None,
            now=NOON,
        ).decision


def model_digest(artifact):
    return parse_statement(parse_bundle(artifact.bundles[0]).payload).model_digest


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_with_a_ceiling_nothing_changes(site):
    site.provision_ceiling()
    site.boot()
    site.hear(site.honest.policy())
    assert site.judge(site.artifact(site.honest)).allowed

    site.hear(site.hub.policy())
    forged = site.judge(site.artifact(site.hub))

    assert (forged.reason, forged.refused_by) == (NodeReason.CEILING, "ceiling")
    assert not site.trust.loosened


def test_without_one_the_alarm_is_raised_and_outlives_a_restart(site):
    site.boot()
    site.hear(site.honest.policy())
    assert not site.trust.loosened

    site.hear(site.hub.policy())

    assert site.judge(site.artifact(site.hub)).allowed  # its only root is the hub
    assert site.trust.loosened
    site.boot()
    assert site.trust.loosened
    site.hear(site.honest.policy())
    assert not site.trust.loosened


@pytest.mark.parametrize("policies", [0, 1], ids=["takes its policies away", "has other keys"])
def test_a_hub_cannot_hide_what_the_ceiling_revokes(site, policies):
    site.boot()
    site.hear(site.honest.policy())
    artifact = site.artifact(site.honest)
    digest = model_digest(artifact)
    site.provision_ceiling(revoked={"digests": [digest]})
    site.trust.reload_ceiling()

    site.hear(*[site.hub.policy()][:policies])
    decision = site.judge(artifact)

    assert (decision.reason, decision.refused_by) == (NodeReason.REVOKED, "ceiling")


def test_a_revocation_by_the_hub_is_told_from_one_by_the_ceiling(site):
    site.provision_ceiling()
    site.boot()
    artifact = site.artifact(site.honest)
    digest = model_digest(artifact)
    site.hear(site.honest.policy(revoked={"digests": [digest], "onActive": "KeepServing"}))

    decision = site.judge(artifact)

    assert (decision.reason, decision.refused_by) == (NodeReason.REVOKED, "policy")
    assert decision.on_active == "KeepServing"
