import os

import pytest

from linnet_agent.errors import CeilingError
from linnet_agent.verify.ceiling import load_ceiling, parse_trust_policies
from linnet_api.reasons import NodeReason


def _document(pem, *, name="site", kind="TrustPolicy", api="linnet.dev/v1alpha1", more=""):
    lines = "\n".join("          " + line for line in pem.strip().splitlines())
    return (
        f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{more}"
        f"  authorities:\n  - name: release\n    key:\n        publicKeyPEM: |\n{lines}\n"
    )


def test_no_file_is_no_ceiling(tmp_path):
    assert load_ceiling(tmp_path / "trust.yaml") is None


def test_a_file_may_hold_several_policies(workshop, tmp_path):
    path = tmp_path / "trust.yaml"
    release, audit = workshop.release.public, workshop.audit.public
    path.write_text(_document(release) + "---\n" + _document(audit, name="b") + "---\n")

    ceiling = load_ceiling(path)
    artifact = workshop.artifact(workshop.release.bundle(workshop.statement()))

    assert len(ceiling.policies) == 2
    decision = workshop.judge(
        artifact, workshop.policy(), ceiling=ceiling.policies.values()
    ).decision
    assert decision.reason is NodeReason.CEILING


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda _: "---\n---\n", id="empty documents"),
        pytest.param(lambda _: "a: [", id="not YAML"),
        pytest.param(lambda _: "just words", id="not an object"),
        pytest.param(lambda _: "!!python/object/apply:os.getcwd []", id="code"),
        pytest.param(lambda pem: _document(pem, kind="RolloutPolicy"), id="another kind"),
        pytest.param(lambda pem: _document(pem, api="v1"), id="another group"),
        pytest.param(lambda pem: _document(pem, more="  tresholds: 2\n"), id="a typing error"),
        pytest.param(lambda pem: _document(pem) + "---\n" + _document(pem), id="a name twice"),
        pytest.param(lambda pem: _document(pem).split("spec:")[0], id="no spec"),
        pytest.param(lambda pem: _document(pem.replace("M", "!")), id="a broken key"),
        pytest.param(lambda _: "\x00", id="a control character"),
        pytest.param(lambda _: "[" * 5000, id="deeper than anybody writes"),
        pytest.param(lambda _: "a: !!bool maybe", id="no bool"),
        pytest.param(lambda _: "a: !!timestamp maybe", id="no time"),
        pytest.param(
            lambda pem: _document(pem, more="  revoked: {keyIds: []}\n" * 2), id="a field twice"
        ),
        pytest.param(
            lambda pem: _document(pem, more=f"  revoked: {{keyIds: [{'a' * 64}], keyIds: []}}\n"),
            id="a field twice further in",
        ),
    ],
)
def test_a_ceiling_that_cannot_be_used_refuses_everything(workshop, tmp_path, text):
    path = tmp_path / "trust.yaml"
    path.write_text(text(workshop.release.public))

    with pytest.raises(CeilingError, match="trust"):
        load_ceiling(path)


def test_a_ceiling_that_everybody_may_write_refuses_everything(workshop, tmp_path):
    path = tmp_path / "trust.yaml"
    path.write_text(_document(workshop.release.public))
    path.chmod(0o646)

    with pytest.raises(CeilingError, match="written by everybody"):
        load_ceiling(path)

    path.chmod(0o664)
    assert load_ceiling(path) is not None


def test_a_ceiling_that_cannot_be_read_refuses_everything(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(5 << 20)

    for name in ("directory", "latin", "large", "fifo"):
        with pytest.raises(CeilingError):
            load_ceiling(tmp_path / name)


def test_policies_are_read_by_name(workshop):
    assert set(parse_trust_policies(_document(workshop.release.public))) == {"site"}
