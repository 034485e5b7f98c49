"""Keyless bundles, made by a sigstore instance of our own, with all that can be wrong with them."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from linnet_agent.confine import AUDIT_HOOK, NETWORK_NAMESPACE, SECCOMP
from linnet_agent.verify.keyless import CHILD, ChildVerifier
from linnet_agent.verify.keyless_child import answer
from linnet_agent.verify.keys import load_public_key
from linnet_agent.verify.signatures import (
    Identified,
    IdentitySigner,
    LogEntry,
    Logged,
    Unproved,
)
from linnet_agent.verify.windows import parse_root, valid_at
from linnet_api.reasons import NodeReason
from linnet_testbed.keyless import HereVerifier
from linnet_testbed.sigstore import Signing, Sigstore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SEEN = NOON + timedelta(seconds=5)
LATER = NOON + timedelta(days=400)
SECOND = timedelta(seconds=1)
PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1","predicateType":"x"}'


@pytest.fixture(scope="module")
def instance():
    return Sigstore(founded_at=NOON - timedelta(days=30))


@pytest.fixture(scope="module")
def foreign():
    return Sigstore(founded_at=NOON - timedelta(days=30))


def judge(bundle, *roots, now=LATER):
    (verdict,) = HereVerifier(dict(zip("abc", roots, strict=False)), now=now).verify([bundle])
    return verdict


def refused(verdict, reason, words=""):
    assert isinstance(verdict, Unproved), verdict
    assert verdict.reason is reason, verdict
    assert words in verdict.message


@pytest.mark.parametrize("by_timestamp", [False, True], ids=["log time", "timestamp"])
def test_a_good_bundle_says_who_signed_it_and_when(instance, by_timestamp):
    signing = Signing(
        subject="release@factory.testbed",
        issuer="https://login.testbed",
        claims={9: "https://ci.testbed/signer", 14: "refs/heads/main"},
        at=NOON,
        by_timestamp=by_timestamp,
    )

    verdict = judge(instance.sign_statement(PAYLOAD, signing), instance.trusted_root())

    assert isinstance(verdict, Identified), verdict
    (proof,) = verdict.proofs
    assert isinstance(proof.signer, IdentitySigner)
    assert proof.signer.subject == "release@factory.testbed"
    assert proof.signer.issuer == "https://login.testbed"
    assert proof.signer.root == "a"
    assert len(bytes.fromhex(proof.signer.certificate)) == 32
    assert proof.signer.claims == {
        "buildSignerURI": "https://ci.testbed/signer",
        "sourceRepositoryRef": "refs/heads/main",
    }
    assert proof.signed_at == SEEN
    assert proof.log_index == 0


def test_there_is_one_proof_for_each_root_under_which_a_bundle_is_good(instance, foreign):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))

    verdict = judge(
        bundle, foreign.trusted_root(), instance.trusted_root(), instance.trusted_root()
    )

    assert [proof.signer.root for proof in verdict.proofs] == ["b", "c"]


_MEMBERS = ["tlog", "ctlog", "authority", "timestamps"]


@pytest.mark.parametrize("member", _MEMBERS)
def test_what_was_retired_before_the_signature_does_not_count(instance, member):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=True))
    root = instance.trusted_root(**{member: (NOON - timedelta(days=9), SEEN - SECOND)})

    refused(judge(bundle, root), NodeReason.UNTRUSTED_KEY, "was not valid")


@pytest.mark.parametrize("member", _MEMBERS)
def test_what_came_after_the_signature_does_not_count(instance, member):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=True))
    root = instance.trusted_root(**{member: (SEEN + SECOND, None)})

    refused(judge(bundle, root), NodeReason.UNTRUSTED_KEY, "was not valid")


@pytest.mark.parametrize("by_timestamp", [False, True], ids=["log time", "timestamp"])
@pytest.mark.parametrize("member", _MEMBERS)
def test_both_ends_of_a_window_are_part_of_it(instance, member, by_timestamp):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=by_timestamp))
    root = instance.trusted_root(**{member: (SEEN, SEEN)})

    assert isinstance(judge(bundle, root), Identified)


def test_what_is_retired_now_counts_for_what_was_signed_before(instance):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))
    past = (NOON - timedelta(days=9), NOON + timedelta(days=9))
    root = instance.trusted_root(tlog=past, ctlog=past, authority=past, timestamps=past)

    assert isinstance(judge(bundle, root), Identified)


@pytest.mark.parametrize(
    ("signing", "reason", "words"),
    [
        pytest.param(
            {"logged_after": timedelta(minutes=10, seconds=1)},
            NodeReason.UNTRUSTED_KEY,
            "not valid at validation time",
            id="the certificate had expired",
        ),
        pytest.param(
            {"logged_after": -SECOND},
            NodeReason.UNTRUSTED_KEY,
            "not valid at validation time",
            id="the certificate was not valid yet",
        ),
        pytest.param(
            {"with_sct": False},
            NodeReason.BAD_SIGNATURE,
            "signed certificate timestamp",
            id="no log has seen the certificate",
        ),
        pytest.param(
            {"subject": "x" * 1100 + "@y"},
            NodeReason.BAD_SIGNATURE,
            "too long",
            id="a name without measure",
        ),
    ],
)
@pytest.mark.parametrize("by_timestamp", [False, True], ids=["log time", "timestamp"])
def test_a_signing_that_is_wrong_is_refused(instance, signing, reason, words, by_timestamp):
    signing = Signing(**{"at": NOON, "by_timestamp": by_timestamp, **signing})

    verdict = judge(instance.sign_statement(PAYLOAD, signing), instance.trusted_root())

    refused(verdict, reason, words)


def test_the_last_second_of_a_certificate_counts(instance):
    signing = Signing(at=NOON, logged_after=timedelta(minutes=10))

    verdict = judge(instance.sign_statement(PAYLOAD, signing), instance.trusted_root())

    assert isinstance(verdict, Identified)


def test_another_instance_proves_nothing(instance, foreign):
    bundle = foreign.sign_statement(PAYLOAD, Signing(at=NOON))

    refused(judge(bundle, instance.trusted_root()), NodeReason.UNTRUSTED_KEY)


def _mixed(one, other, *names):
    """Return the root of ``one`` with some lists of ``other``."""
    mine, theirs = json.loads(one.trusted_root()), json.loads(other.trusted_root())
    return json.dumps(mine | {name: theirs[name] for name in names}).encode()


@pytest.mark.parametrize("names", ["tlogs", "ctlogs", "timestampAuthorities"])
def test_each_witness_must_be_of_the_trusted_instance(instance, foreign, names):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=True))

    refused(judge(bundle, _mixed(instance, foreign, names)), NodeReason.BAD_SIGNATURE)


def _edit(bundle, path, change):
    document = json.loads(bundle)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = change(place[path[-1]])
    return json.dumps(document).encode()


def _flip(text):
    content = bytearray(base64.b64decode(text))
    content[len(content) // 2] ^= 1
    return base64.b64encode(bytes(content)).decode()


_ENTRY = ["verificationMaterial", "tlogEntries", 0]
_STAMPS = ["verificationMaterial", "timestampVerificationData"]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        pytest.param(["dsseEnvelope", "payload"], _flip, id="payload"),
        pytest.param(["dsseEnvelope", "signatures", 0, "sig"], _flip, id="signature"),
        pytest.param([*_ENTRY, "canonicalizedBody"], _flip, id="log body"),
        pytest.param([*_ENTRY, "inclusionProof", "rootHash"], _flip, id="log root"),
        pytest.param([*_ENTRY, "inclusionProof", "hashes"], lambda _: ["AA=="], id="log path"),
        pytest.param(
            [*_ENTRY, "inclusionProof", "checkpoint", "envelope"],
            lambda text: text.replace("log.testbed\n1", "log.testbed\n2"),
            id="checkpoint",
        ),
        pytest.param(
            [*_ENTRY, "inclusionPromise", "signedEntryTimestamp"], _flip, id="log promise"
        ),
        pytest.param(
            [*_ENTRY, "integratedTime"], lambda text: str(int(text) + 1), id="another time"
        ),
        pytest.param([*_ENTRY, "integratedTime"], lambda _: str(2**62), id="a time out of range"),
        pytest.param(["verificationMaterial", "certificate", "rawBytes"], _flip, id="certificate"),
    ],
)
def test_a_byte_that_was_changed_is_noticed(instance, path, change):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))
    verdict = judge(_edit(bundle, path, change), instance.trusted_root())

    assert isinstance(verdict, Unproved)
    assert verdict.reason in {NodeReason.BAD_SIGNATURE, NodeReason.UNTRUSTED_KEY}


def test_a_timestamp_of_another_signature_is_noticed(instance):
    one, other = (
        instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=True)) for _ in range(2)
    )
    stamps = json.loads(other)["verificationMaterial"]["timestampVerificationData"]

    verdict = judge(_edit(one, _STAMPS, lambda _: stamps), instance.trusted_root())

    refused(verdict, NodeReason.BAD_SIGNATURE, "verified time")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        pytest.param(_STAMPS, lambda _: {"rfc3161Timestamps": []}, id="no time"),
        pytest.param(_ENTRY[:-1], lambda _: [], id="no log entry"),
        pytest.param(_ENTRY[:-1], lambda entries: entries * 2, id="two log entries"),
        pytest.param([*_ENTRY, "inclusionProof"], lambda _: None, id="no proof"),
        pytest.param([*_ENTRY, "logIndex"], lambda _: "-1", id="a negative index"),
        pytest.param([*_ENTRY, "logIndex"], lambda _: 0, id="a number for a text"),
    ],
)
def test_a_bundle_that_lacks_a_witness_is_malformed(instance, path, change):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=True))
    verdict = judge(_edit(bundle, path, change), instance.trusted_root())

    refused(verdict, NodeReason.MALFORMED_BUNDLE)


def test_what_a_bundle_says_twice_is_malformed(instance):
    twice = instance.sign_statement(PAYLOAD, Signing(at=NOON))[:-1] + b',"mediaType":"x"}'

    said = answer(twice, roots={"a": instance.trusted_root()}, now=LATER, artifact_sha256=None)

    assert said["reason"] is NodeReason.MALFORMED_BUNDLE
    assert "twice" in said["message"]


def test_what_is_signed_as_something_else_is_no_statement(instance):
    private = ec.generate_private_key(ec.SECP256R1())
    bundle = instance.log_statement(PAYLOAD, private, Signing(at=NOON))
    ask = {"roots": {"a": instance.trusted_root()}, "now": LATER, "artifact_sha256": None}

    for path, change in (
        (["dsseEnvelope", "payloadType"], lambda _: "text/plain"),
        (["mediaType"], lambda _: "application/vnd.dev.sigstore.bundle+json;version=0.1"),
        (["verificationMaterial", "tlogEntries"], lambda entries: entries * 2),
    ):
        assert answer(_edit(bundle, path, change), **ask)["reason"] is NodeReason.MALFORMED_BUNDLE
    assert "proofs" in answer(bundle, **ask)


# --- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_timestamp", [False, True], ids=["log time", "timestamp"])
@pytest.mark.parametrize(
    "now", [datetime(1970, 1, 1, tzinfo=UTC), SEEN - timedelta(minutes=11)], ids=str
)
def test_a_good_signature_from_the_future_is_the_clocks_fault(instance, now, by_timestamp):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=by_timestamp))

    refused(
        judge(bundle, instance.trusted_root(), now=now), NodeReason.CLOCK_UNTRUSTED, "2026-01-01"
    )


def test_clocks_may_differ_by_minutes(instance):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))
    now = SEEN - timedelta(minutes=9)

    assert isinstance(judge(bundle, instance.trusted_root(), now=now), Identified)


def test_a_bad_signature_is_bad_whatever_the_clock_says(instance, foreign):
    good = instance.sign_statement(PAYLOAD, Signing(at=NOON))
    bad = _edit(good, ["dsseEnvelope", "signatures", 0, "sig"], _flip)
    strange = foreign.sign_statement(PAYLOAD, Signing(at=NOON))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    refused(judge(bad, instance.trusted_root(), now=epoch), NodeReason.BAD_SIGNATURE)
    refused(judge(strange, instance.trusted_root(), now=epoch), NodeReason.UNTRUSTED_KEY)


# --- trusted roots --------------------------------------------------------------------------------


def _root_with(instance, path, change):
    return _edit(instance.trusted_root(), path, change)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (["tlogs", 0, "publicKey", "validFor"], lambda _: {}),
        (["tlogs", 0, "publicKey", "validFor"], lambda _: None),
        (["ctlogs", 0, "publicKey", "validFor"], lambda window: window | {"begin": "x"}),
        (["certificateAuthorities", 0, "validFor", "start"], lambda _: "2026-01-01T00:00:00"),
        (["certificateAuthorities", 0, "validFor", "start"], lambda _: "now"),
        (["timestampAuthorities", 0, "validFor", "start"], lambda _: 0),
        (["tlogs", 0], lambda _: "x"),
        (["tlogs"], lambda _: {}),
        (["ctlogs"], lambda _: None),
    ],
)
def test_a_root_whose_windows_cannot_be_read_is_no_root(instance, path, change):
    root = _root_with(instance, path, change)

    with pytest.raises(ValueError, match=r"\w"):
        parse_root(root)
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))
    refused(judge(bundle, root), NodeReason.NO_TRUST_ROOT)


@pytest.mark.parametrize("root", [b"", b"junk", b"[]", b'{"a":1,"a":1}', b" " * (1 << 21)])
def test_junk_is_no_root(instance, root):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))

    refused(judge(bundle, root), NodeReason.NO_TRUST_ROOT)


def test_without_a_root_there_is_no_root(instance):
    refused(judge(instance.sign_statement(PAYLOAD, Signing(at=NOON))), NodeReason.NO_TRUST_ROOT)


def test_one_root_that_cannot_be_read_does_not_hide_the_others(instance):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))

    assert isinstance(judge(bundle, b"junk", instance.trusted_root()), Identified)


def test_of_a_root_is_left_what_was_valid_at_every_time(instance):
    root = parse_root(instance.trusted_root(tlog=(NOON, NOON + SECOND)))

    assert len(valid_at(root, [NOON])["tlogs"]) == 1
    assert len(valid_at(root, [NOON, NOON + SECOND])["tlogs"]) == 1
    assert valid_at(root, [NOON, NOON + 2 * SECOND])["tlogs"] == []
    assert valid_at(root, [NOON - SECOND])["tlogs"] == []
    assert len(valid_at(root, [])["tlogs"]) == 1


# --- keys that somebody keeps ---------------------------------------------------------------------


@pytest.mark.parametrize("by_timestamp", [False, True], ids=["log time", "timestamp"])
def test_a_log_entry_tells_when_a_key_has_signed(instance, by_timestamp):
    private = ec.generate_private_key(ec.SECP256R1())
    bundle = instance.log_statement(PAYLOAD, private, Signing(at=NOON, by_timestamp=by_timestamp))

    verdict = judge(bundle, instance.trusted_root())

    key = load_public_key(_public_pem(private))
    assert verdict == Logged((LogEntry(key.spki_hash, SEEN, 0, "a"),))


def test_a_log_entry_of_a_retired_log_tells_nothing(instance):
    private = ec.generate_private_key(ec.SECP256R1())
    bundle = instance.log_statement(PAYLOAD, private, Signing(at=NOON))
    root = instance.trusted_root(tlog=(NOON - timedelta(days=9), SEEN - SECOND))

    refused(judge(bundle, root), NodeReason.UNTRUSTED_KEY, "was not valid")


@pytest.mark.parametrize("by_timestamp", [False, True], ids=["log time", "timestamp"])
def test_a_log_entry_about_another_signature_tells_nothing(instance, by_timestamp):
    private = ec.generate_private_key(ec.SECP256R1())
    signing = Signing(at=NOON, by_timestamp=by_timestamp)
    one = instance.log_statement(PAYLOAD, private, signing)
    other = json.loads(instance.log_statement(PAYLOAD, private, signing))

    swapped = _edit(one, ["dsseEnvelope"], lambda _: other["dsseEnvelope"])
    verdict = judge(swapped, instance.trusted_root())

    assert isinstance(verdict, Unproved)
    assert verdict.reason is NodeReason.BAD_SIGNATURE


def test_a_log_entry_about_a_certificate_is_none_about_a_key(instance):
    signed = json.loads(instance.sign_statement(PAYLOAD, Signing(at=NOON)))
    material = signed["verificationMaterial"]
    del material["certificate"]
    material["publicKey"] = {"hint": "x"}

    verdict = judge(json.dumps(signed).encode(), instance.trusted_root())

    refused(verdict, NodeReason.BAD_SIGNATURE)


# --- the child ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_child_answers_as_this_process_does(instance, foreign):
    roots = {"site": instance.trusted_root()}
    bundles = [
        instance.sign_statement(PAYLOAD, Signing(at=NOON)),
        b"junk",
        foreign.sign_statement(PAYLOAD, Signing(at=NOON)),
        instance.sign_statement(PAYLOAD, Signing(at=NOON, by_timestamp=True)),
    ]

    verdicts = ChildVerifier(roots, now=LATER, timeout_s=60).verify(bundles)

    here = HereVerifier(roots, now=LATER)
    assert [verdicts[index] for index in (0, 2, 3)] == here.verify([bundles[0], *bundles[2:]])
    refused(verdicts[1], NodeReason.MALFORMED_BUNDLE)


@pytest.mark.slow
def test_the_child_signs_for_files_too(instance):
    bundle = instance.sign_file(b"content", Signing(at=NOON))
    verifier = ChildVerifier({"site": instance.trusted_root()}, now=LATER, timeout_s=60)

    good = verifier.verify_file(bundle, sha256=_sha256(b"content"))

    assert isinstance(good, Identified)
    refused(verifier.verify_file(bundle, sha256=_sha256(b"x")), NodeReason.BAD_SIGNATURE)


_BEGIN = """
import base64, hashlib, json, os, signal, sys, time
request = json.load(sys.stdin)
def say(document):
    print(json.dumps(document), flush=True)
def good(item):
    bundle = json.loads(base64.b64decode(item["bundle"]))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    identity = {"issuer": "i", "subject": "s", "certificate": "c", "claims": {}}
    say({"proofs": [{"signedAt": "2026-01-01T12:00:05+00:00", "logIndex": 7, "root": "site",
         "payloadSha256": hashlib.sha256(payload).hexdigest(), "identity": identity}]})
"""


def _ask_a_child_that(script, bundles, *, timeout_s=30.0):
    command = [sys.executable, "-c", _BEGIN + script]
    verifier = ChildVerifier({"site": b"{}"}, now=LATER, timeout_s=timeout_s, command=command)
    return verifier.verify(bundles)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("", "it ended with 0", id="it says nothing"),
        pytest.param("raise SystemExit(3)", "it ended with 3", id="it gives up"),
        pytest.param("import no_such_module", "No module named", id="sigstore is not installed"),
        pytest.param("os.kill(os.getpid(), 9)", "SIGKILL", id="killed at once"),
        pytest.param("print('junk')", "not an answer", id="junk"),
        pytest.param("sys.stdout.write('[' * 100_000)", "it ended with 0", id="half a line"),
        pytest.param("sys.stdout.write('x' * 500_000)", "more than an answer", id="too much"),
        pytest.param("say({'fault': 'MemoryError'})", "MemoryError", id="it tells its fault"),
        pytest.param("say({}); good(request['bundles'][0])", "did not answer", id="no first line"),
    ],
)
def test_a_child_that_does_not_start_proves_nothing(instance, script, words):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))

    (verdict,) = _ask_a_child_that(script, [bundle])

    refused(verdict, NodeReason.KEYLESS_UNAVAILABLE, words)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("say({'proofs': []})", "another form", id="no proof"),
        pytest.param("say({'proofs': 7})", "another form", id="no list"),
        pytest.param("say({'reason': 'x', 'message': ''})", "another form", id="no reason"),
        pytest.param("say({})", "another form", id="an empty answer"),
        pytest.param(
            "request['bundles'][0]['bundle'] = base64.b64encode("
            'b\'{"dsseEnvelope":{"payload":"e30="}}\').decode(); good(request[\'bundles\'][0])',
            "another payload",
            id="about another payload",
        ),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", id="it crashes"),
        pytest.param("print('{'); sys.exit()", "not an answer", id="junk"),
    ],
)
def test_an_answer_that_is_none_proves_nothing(instance, script, words):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))

    (verdict,) = _ask_a_child_that("say({'layers': []})\n" + script, [bundle])

    refused(verdict, NodeReason.KEYLESS_UNAVAILABLE, words)


@pytest.mark.slow
def test_a_child_that_hangs_is_ended(instance):
    bundle = instance.sign_statement(PAYLOAD, Signing(at=NOON))

    (verdict,) = _ask_a_child_that("say({'layers': []}); time.sleep(600)", [bundle], timeout_s=2.0)

    refused(verdict, NodeReason.KEYLESS_UNAVAILABLE, "said nothing")


@pytest.mark.slow
def test_a_bundle_at_which_the_child_dies_does_not_take_the_others_with_it(instance):
    bundles = [instance.sign_statement(b'{"a":%d}' % n, Signing(at=NOON)) for n in range(4)]
    deadly = json.loads(bundles[2])["dsseEnvelope"]["payload"]
    script = f"""
say({{"layers": []}})
for item in request["bundles"]:
    if {deadly!r} in base64.b64decode(item["bundle"]).decode():
        os.kill(os.getpid(), signal.SIGSEGV)
    good(item)
"""

    verdicts = _ask_a_child_that(script, bundles, timeout_s=60)

    assert [type(verdict) for verdict in verdicts] == [
        Identified,
        Identified,
        Unproved,
        Identified,
    ]
    refused(verdicts[2], NodeReason.KEYLESS_UNAVAILABLE, "SIGSEGV")


def test_a_child_that_cannot_be_started_proves_nothing(instance):
    verifier = ChildVerifier({}, now=LATER, command=["/nonexistent/python"])

    (verdict,) = verifier.verify([instance.sign_statement(PAYLOAD, Signing(at=NOON))])

    refused(verdict, NodeReason.KEYLESS_UNAVAILABLE, "cannot be started")


def test_nothing_to_verify_starts_no_child():
    assert ChildVerifier({}, now=LATER, command=["/nonexistent/python"]).verify([]) == []


@pytest.mark.slow
def test_the_child_has_given_up_the_network_before_it_reads_a_bundle():
    request = json.dumps({"now": NOON.isoformat(), "roots": {}, "bundles": []})

    done = subprocess.run(
        [*CHILD, str(os.getpid()), "60"],
        input=request,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    layers = json.loads(done.stdout)["layers"]
    assert {NETWORK_NAMESPACE, SECCOMP, AUDIT_HOOK} & set(layers)


@pytest.mark.slow
def test_only_the_child_imports_sigstore():
    script = (
        "import sys; from linnet_agent.verify import artifact, keyless, signatures; "
        "print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'sigstore', 'requests', 'tuf', 'rfc3161_client'}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"


def _sha256(content):
    return hashlib.sha256(content).digest()


def _public_pem(private):
    return (
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )
