import pytest

from linnet_agent.trust import TrustStore, is_narrower
from linnet_api.reasons import NodeReason
from linnet_api.trust_policy import TrustPolicySpec
from linnet_cli.publish.keys import generate_key


@pytest.fixture(scope="module")
def keys():
    return [generate_key()[1].decode() for _ in range(2)]


def spec(*pems, **more):
    authorities = [{"name": f"a{n}", "key": {"publicKeyPEM": pem}} for n, pem in enumerate(pems)]
    return {"match": {"models": ["factory/*"]}, "authorities": authorities} | more


def item(value):
    return {"metadata": {"name": "release"}, "spec": value}


class Box:
    def __init__(self, path):
        self.changes = 0
        self.path = path
        (path / "trust").mkdir(exist_ok=True)
        self.ceiling = path / "trust.yaml"

    def open(self):
        store = TrustStore(
            self.path / "trust", ceiling_file=self.ceiling, on_change=self._count_change
        )
        store.load()
        return store

    def _count_change(self):
        self.changes += 1


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


def test_nothing_is_known_until_the_hub_or_the_disk_has_spoken(box, keys):
    store = box.open()
    assert not store.known

    store.replace({"release": item(spec(keys[0]))})
    assert store.known
    assert box.open().known


def test_an_empty_listing_is_known_too(box):
    store = box.open()

    store.replace({})

    assert store.known
    assert box.changes == 1


def test_trust_survives_a_restart_with_the_same_hash(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})

    again = box.open()

    assert again.hash == store.hash
    assert set(again.policies) == {"release"}


def test_the_same_listing_again_is_no_change(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    store.replace({"release": item(spec(keys[0]))})

    assert box.changes == 1


def test_without_a_ceiling_a_loosened_policy_is_told_even_after_a_restart(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    assert not store.loosened

    store.put("release", item(spec(*keys)))
    assert store.loosened
    assert box.open().loosened


def test_a_revocation_is_not_a_loosening(box, keys):
    store = box.open()
    store.replace({"release": item(spec(*keys))})

    store.put("release", item(spec(keys[0], revoked={"digests": ["sha256:" + "1" * 64]})))

    assert not store.loosened


def test_with_a_ceiling_nothing_counts_as_loosened(box, keys):
    pem = keys[0].replace("\n", "\n          ")
    box.ceiling.write_text(
        "apiVersion: linnet.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: site}\nspec:\n"
        f"  authorities:\n  - name: site\n    key:\n      publicKeyPEM: |\n          {pem}\n"
    )
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    store.put("release", item(spec(*keys)))

    assert store.ceiling is not None
    assert store.fault is None
    assert not store.loosened


def test_a_ceiling_that_cannot_be_read_is_a_fault_until_it_is_mended(box, keys):
    box.ceiling.write_text("kind: Sandwich")
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    before, changes = store.hash, box.changes

    assert store.fault[0] is NodeReason.CEILING
    store.reload_ceiling()
    assert box.changes == changes

    box.ceiling.unlink()
    store.reload_ceiling()
    assert store.fault is None
    assert store.hash != before
    assert box.changes == changes + 1


def test_a_policy_that_cannot_be_read_is_a_fault_until_it_goes(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0])), "odd": item({"authorities": "me"})})

    assert store.fault[0] is NodeReason.NO_TRUST_POLICY
    assert "odd" in store.fault[1]

    store.drop("odd")
    assert store.fault is None


@pytest.mark.parametrize(
    ("change", "narrower"),
    [
        pytest.param({}, True, id="the same"),
        pytest.param({"require": {"threshold": 2}}, True, id="more must sign"),
        pytest.param({"match": {"models": ["**"]}}, False, id="more models"),
        pytest.param({"content": {"allowFiles": ["*.onnx"]}}, False, id="not plain to see"),
        pytest.param({"revoked": {"onActive": "KeepServing"}}, False, id="revocation softened"),
    ],
)
def test_what_is_narrower(keys, change, narrower):
    old = TrustPolicySpec.model_validate(spec(*keys))
    new = TrustPolicySpec.model_validate(spec(*keys) | change)

    assert is_narrower({"p": new}, than={"p": old}) is narrower


def test_a_policy_more_or_less_is_not_narrower(keys):
    one = TrustPolicySpec.model_validate(spec(keys[0]))

    assert not is_narrower({"p": one, "q": one}, than={"p": one})
    assert not is_narrower({}, than={"p": one})
