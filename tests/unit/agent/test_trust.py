from datetime import UTC, datetime, timedelta

import pytest

from linnet_agent.trust import TrustStore
from linnet_api.reasons import NodeReason
from linnet_cli.publish.keys import generate_key

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ROOT = b'{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'


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
        self.roots = path / "trust-roots"
        self.now = NOON

    def open(self):
        store = TrustStore(
            self.path / "trust",
            ceiling_file=self.ceiling,
            on_change=self._count_change,
            clock=lambda: self.now,
            roots_directory=self.roots,
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


def test_a_revocation_that_is_taken_back_is_a_loosening_even_after_a_restart(box, keys):
    before = spec(keys[0])
    revoked = before | {"revoked": {"digests": ["sha256:" + "1" * 64]}}
    store = box.open()
    store.replace({"release": item(before)})
    store.put("release", item(revoked))
    assert not store.loosened

    store.put("release", item(before))
    assert store.loosened
    store = box.open()
    assert store.loosened
    store.put("release", item(revoked))
    assert not store.loosened


def write_ceiling(path, pem, more=""):
    pem = pem.replace("\n", "\n          ")
    path.write_text(
        "apiVersion: linnet.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: site}\nspec:\n"
        f"{more}  authorities:\n  - name: site\n    key:\n      publicKeyPEM: |\n          {pem}\n"
    )


def test_with_a_ceiling_nothing_counts_as_loosened(box, keys):
    write_ceiling(box.ceiling, keys[0])
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    store.put("release", item(spec(*keys)))

    assert store.ceiling is not None
    assert store.fault is None
    assert not store.loosened


def test_a_ceiling_that_vanishes_is_told_even_after_a_restart(box, keys):
    write_ceiling(box.ceiling, keys[0])
    box.open().replace({"release": item(spec(keys[0]))})
    box.ceiling.unlink()

    assert box.open().loosened


def test_a_pin_that_cannot_be_read_is_not_pinned_anew_but_told(box, keys):
    box.open().replace({"release": item(spec(keys[0]))})
    (box.path / "trust" / "pinned.json").write_bytes(b"{")

    store = box.open()
    store.replace({"release": item(spec(*keys))})

    assert store.loosened
    assert box.open().loosened


def test_trust_changes_on_a_disk_that_is_full(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    before = store.hash
    for name in ("policies.json", "heard"):  # a directory in the way: nothing can be renamed there
        (box.path / "trust" / name).unlink()
        (box.path / "trust" / name).mkdir()

    revoked = {"digests": ["sha256:" + "1" * 64]}
    store.put("release", item(spec(keys[0], revoked=revoked)))

    assert store.hash != before
    assert store.policies["release"].revoked.digests == tuple(revoked["digests"])


# --- trusted roots


def test_the_nodes_roots_are_read_by_name_and_change_the_hash(box, keys):
    box.roots.mkdir()
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    before, changes = store.hash, box.changes

    (box.roots / "site7.json").write_bytes(ROOT)
    store.reload_ceiling()

    assert store.roots == {"site7": ROOT}
    assert store.hash != before
    assert box.changes == changes + 1
    (box.roots / "site7.json").write_bytes(ROOT + b" ")
    store.reload_ceiling()
    assert box.changes == changes + 2
    assert box.open().hash == store.hash


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("site7.json", b"{"),
        ("site7.json", b"[]"),
        ("site7.json", b"{}" + b" " * (1 << 20)),
        ("Site 7.json", b"{}"),
        ("sha256:x.json", b"{}"),
    ],
)
def test_what_is_no_root_is_none(box, name, content):
    box.roots.mkdir()
    (box.roots / name).write_bytes(content)
    (box.roots / "fine.json").write_bytes(ROOT)

    assert set(box.open().roots) == {"fine"}


def test_a_root_that_everybody_may_write_is_none(box):
    box.roots.mkdir()
    (box.roots / "site7.json").write_bytes(ROOT)
    (box.roots / "site7.json").chmod(0o666)

    assert box.open().roots == {}


def test_what_a_policy_holds_inline_never_takes_the_name_of_a_nodes_root(box, keys):
    box.roots.mkdir()
    (box.roots / "site7.json").write_bytes(ROOT)
    store = box.open()
    theirs = [{"name": "site7", "trustedRootJSON": "{}"}]
    store.replace({"release": item(spec(keys[0], trustRoots=theirs))})

    assert store.roots["site7"] == ROOT
    assert sorted(store.roots.values()) == sorted([ROOT, b"{}"])


def test_the_root_of_the_tuf_repository_is_a_root_of_the_node(box):
    store = box.open()
    before = store.hash
    store.take_tuf_root(ROOT)

    assert store.roots == {"tuf": ROOT}
    assert store.hash != before
    store.take_tuf_root(ROOT)
    assert box.changes == 1


# --- freshness


def test_trust_that_was_not_heard_for_too_long_is_stale_and_no_fault(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0], freshness={"maxTrustAge": "7d"}))})
    box.now += 7 * DAY
    assert not store.stale
    box.now += timedelta(seconds=1)

    assert store.stale
    assert store.fault is None
    assert box.open().stale
    store.replace({"release": item(spec(keys[0], freshness={"maxTrustAge": "7d"}))})
    assert not store.stale
    assert not box.open().stale


def test_a_watch_that_says_that_nothing_has_changed_keeps_trust_fresh(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0], freshness={"maxTrustAge": "7d"}))})
    changes = box.changes
    for _ in range(30):
        box.now += DAY
        store.confirm()

    assert not store.stale
    assert not box.open().stale
    assert box.changes == changes


def test_when_the_hub_was_heard_and_nobody_can_read_it_trust_is_stale(box, keys):
    box.open().replace({"release": item(spec(keys[0], freshness={"maxTrustAge": "7d"}))})
    (box.path / "trust" / "heard").write_text("yesterday\n")

    store = box.open()
    assert store.stale

    store.confirm()
    assert not store.stale


def test_policies_that_the_disk_would_not_tell_at_the_start_are_read_later(box, keys):
    box.open().replace({"release": item(spec(keys[0]))})
    there, away = box.path / "trust" / "policies.json", box.path / "away"
    there.rename(away)
    there.mkdir()
    store = box.open()
    assert not store.known

    there.rmdir()
    away.rename(there)
    store.reload_ceiling()

    assert store.known
    assert set(store.policies) == {"release"}


def test_a_policy_that_becomes_unreadable_counts_no_more(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    store.put("release", item({"authorities": "me"}))

    assert store.policies == {}
    assert store.fault[0] is NodeReason.NO_TRUST_POLICY
    store.put("release", item(spec(keys[0])))
    assert store.fault is None


def test_trust_that_was_heard_by_a_clock_that_was_ahead_is_stale(box, keys):
    box.now += 3650 * DAY
    box.open().replace({"release": item(spec(keys[0], freshness={"maxTrustAge": "7d"}))})
    box.now = NOON

    store = box.open()
    assert store.stale

    store.confirm()
    assert not store.stale


def test_trust_without_a_limit_is_never_stale(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0]))})
    box.now += 1000 * DAY

    assert not store.stale


def test_a_ceiling_can_ask_for_fresh_trust_too(box, keys):
    write_ceiling(box.ceiling, keys[0], more="  freshness: {maxTrustAge: 1d}\n")
    store = box.open()
    assert store.stale

    store.replace({"release": item(spec(keys[0]))})
    assert not store.stale
    box.now += 2 * DAY
    assert store.stale


def test_when_the_hub_was_heard_is_written_once_an_hour(box, keys):
    store, heard = box.open(), box.path / "trust" / "heard"
    written = set()
    for _ in range(120):
        store.replace({"release": item(spec(keys[0]))})
        written.add(heard.read_text())
        box.now += timedelta(minutes=1)

    assert len(written) == 2


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


def test_what_a_person_should_look_at_is_told_by_name(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0], freshness={"maxTrustAge": "7d"}))})
    quiet = {"Loosened": False, "Stale": False, "Unreadable": False}
    assert store.alarms == quiet

    box.now += 8 * DAY
    assert store.alarms == quiet | {"Stale": True}
    store.replace({"release": item(spec(*keys, freshness={"maxTrustAge": "7d"}))})
    assert store.alarms == quiet | {"Loosened": True}
    box.ceiling.write_text("kind: Sandwich")
    store.reload_ceiling()
    assert store.alarms["Unreadable"]
    box.ceiling.unlink()
    store.reload_ceiling()
    box.roots.mkdir()
    (box.roots / "site7.json").write_bytes(b"{")
    store.reload_ceiling()
    assert store.alarms == quiet | {"Loosened": True, "Unreadable": True}


def test_a_policy_that_cannot_be_read_is_a_fault_until_it_goes(box, keys):
    store = box.open()
    store.replace({"release": item(spec(keys[0])), "odd": item({"authorities": "me"})})

    assert store.fault[0] is NodeReason.NO_TRUST_POLICY
    assert "odd" in store.fault[1]

    store.drop("odd")
    assert store.fault is None
