"""Names, ports, locks, certificates and the sentences of a machine that lacks something."""

import socket
import threading

import pytest
from cryptography import x509

from linnet_testbed import Settings, Testbed, TestbedError, TestbedUnavailableError, certs, files
from linnet_testbed.binaries import Binaries
from linnet_testbed.ports import assign, is_free, is_open
from linnet_testbed.progress import clock
from linnet_testbed.state import State
from linnet_testbed.tokens import Token


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "state", tmp_path / "cache", None, frozenset())


def quiet(_message):
    """Say nothing."""


def nobody(_name):
    return False


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("LINNET_KUBECONFIG", "/k")
    monkeypatch.setenv("LINNET_ALLOW_CONTEXT", "kind-a, kind-b")
    read = Settings.from_environment()
    assert read.directory("demo") == tmp_path / "s" / "linnet" / "testbed" / "demo"
    assert read.cache_home == tmp_path / "c" / "linnet"
    assert read.allowed_contexts == {"kind-a", "kind-b"}
    assert str(read.kubeconfig) == "/k"


@pytest.mark.parametrize("name", ["", "a/b", "..", "Upper", "-a", "a-", "x" * 33])
def test_a_name_that_is_no_name_is_refused(settings, name):
    with pytest.raises(TestbedError, match="cannot name a testbed"):
        settings.directory(name)


def test_what_is_not_up_cannot_be_attached_to(settings):
    with pytest.raises(TestbedError, match="There is no testbed demo"):
        Testbed.attach("demo", settings=settings)


def test_state_of_another_version_is_read(tmp_path):
    files.write_json(tmp_path / "s", {"name": "x", "nodes": 2, "unknown": 1})
    assert State.load(files.read_json(tmp_path / "s")) == State("x", nodes=2)


def test_ports_are_kept_where_they_can_be():
    first = assign(["a", "b"], {}, nobody, set(), "seed")
    assert assign(["a", "b", "c"], first, nobody, set(), "seed").items() >= first.items()


@pytest.mark.slow
def test_a_port_that_a_stranger_has_is_given_up_and_one_that_ours_has_is_kept():
    first = assign(["a"], {}, nobody, set(), "seed")
    with socket.create_server(("127.0.0.1", first["a"])):
        assert is_open(first["a"])
        assert not is_free(first["a"])
        assert assign(["a"], first, nobody, set(), "seed") != first
        assert assign(["a"], first, lambda _: True, set(), "seed") == first


def test_ports_of_other_beds_are_avoided():
    first = assign(["a"], {}, nobody, set(), "seed")
    second = assign(["a"], {}, nobody, set(first.values()), "seed")
    assert first != second


@pytest.mark.slow
def test_a_lock_is_held_by_one_and_survives_the_removal_of_its_directory(tmp_path):
    path = tmp_path / "locked"
    said = []
    entered = threading.Event()

    def second():
        with files.locked(path, "a test", timeout=10, say=said.append):
            entered.set()

    with files.locked(path, "a test"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
        path.rmdir()
    thread.join(10)
    assert entered.is_set()
    assert said == ["waiting: another process is busy with a test"]
    assert path.is_dir()


def test_a_lock_that_is_never_free_ends_in_a_sentence(tmp_path):
    with (
        files.locked(tmp_path, "a test"),
        pytest.raises(TestbedError, match="busy with a test"),
        files.locked(tmp_path, "a test", timeout=0),
    ):
        pass


def test_the_certificate_holds_loopback_and_is_made_once(tmp_path):
    certs.make(tmp_path)
    text = (tmp_path / "api.crt").read_bytes()
    certs.make(tmp_path)
    assert (tmp_path / "api.crt").read_bytes() == text
    names = x509.load_pem_x509_certificate(text).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "127.0.0.1" in {str(a) for a in names.value.get_values_for_type(x509.IPAddress)}
    assert (tmp_path / "sa.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("kubectl", "needs kubectl: install it"),
        ("kube", "install Go 1.24 or newer, or offer a cluster with LINNET_KUBECONFIG"),
        ("kine", "builds kine from Go modules: install Go"),
        ("prometheus", "needs prometheus: install it so that it is on PATH"),
        ("registry", "builds an OCI registry from Go modules: install Go"),
    ],
)
def test_a_machine_without_what_is_needed_gets_one_sentence(settings, monkeypatch, part, sentence):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(TestbedUnavailableError, match=sentence):
        getattr(Binaries(settings.cache_home, quiet), part)()


@pytest.mark.slow
def test_up_on_such_a_machine_leaves_nothing(settings, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(TestbedUnavailableError, match="kubectl"):
        Testbed.up("x", nodes=1, settings=settings, say=quiet)
    assert not settings.directory("x").exists()


def test_a_state_directory_too_deep_for_sockets_is_refused(settings):
    deep = Settings(settings.state_home / ("x" * 90), settings.cache_home, None, frozenset())
    with pytest.raises(TestbedUnavailableError, match="set XDG_STATE_HOME"):
        Testbed.up("x", nodes=1, settings=deep, say=quiet)


def test_what_is_in_the_cache_is_not_made_again(settings, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    made = settings.cache_home / "bin" / "prometheus-debian"
    made.mkdir(parents=True)
    assert Binaries(settings.cache_home, quiet).prometheus() == made / "prometheus"


def test_tokens_are_due_after_a_third_of_their_life(tmp_path):
    token = Token("ns", "sa", str(tmp_path / "token"), 3600)
    assert token.is_due(0)
    files.write(tmp_path / "token", "x")
    written = (tmp_path / "token").stat().st_mtime
    assert not token.is_due(written + 1199)
    assert token.is_due(written + 1201)


def test_seconds_read_well():
    assert [clock(4.24), clock(80), clock(3725)] == ["4.2s", "1m20s", "62m05s"]
