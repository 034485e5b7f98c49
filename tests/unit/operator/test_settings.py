"""Settings: flags beat the environment, and what cannot be used is said."""

import pytest

from linnet_operator.errors import SettingsError
from linnet_operator.settings import parse_arguments


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("LINNET_REGISTRY_MIRRORS", raising=False)


def test_a_flag_beats_the_environment(monkeypatch):
    monkeypatch.setenv("LINNET_OPERATOR_RESYNC_S", "7")
    monkeypatch.setenv("LINNET_OPERATOR_SOAK_S", "9")

    settings, _ = parse_arguments(["--resync-s", "8"])

    assert (settings.resync_s, settings.soak_s) == (8, 9)


def test_a_bare_prometheus_is_the_default_one():
    settings, _ = parse_arguments(
        ["--prometheus", "http://a:9090", "--prometheus", "far=https://b/x=y"]
    )

    assert settings.prometheus == {"default": "http://a:9090", "far": "https://b/x=y"}


def test_mirrors_come_from_the_variable_that_all_parts_share(monkeypatch):
    monkeypatch.setenv("LINNET_REGISTRY_MIRRORS", "a.io=http://x:1, b.io=https://y")

    settings, _ = parse_arguments([])

    assert settings.registry_mirrors == {"a.io": "http://x:1", "b.io": "https://y"}


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        pytest.param(["--resync-s", "0"], "resync_s", id="no pause at all"),
        pytest.param(["--metrics", "9464"], "metrics", id="no host"),
        pytest.param(["--prometheus", "x=ftp://y"], "'x' is not an http", id="no http"),
        pytest.param(["--prometheus", "http://y/?a=b"], "'default' is not http", id="a query"),
        pytest.param(["--prometheus", "http://y:99999"], "'default' is not http", id="no port"),
        pytest.param(["--prometheus", "http://[::1"], "'default' is not http", id="no address"),
        pytest.param(["--registry-mirror", "http://y"], "host=url", id="a mirror of nothing"),
        pytest.param(["--log-level", "loud"], "log_level", id="no such level"),
    ],
)
def test_what_cannot_be_used_is_named(flags, names):
    with pytest.raises(SettingsError, match=names):
        parse_arguments(flags)


def test_credentials_belong_to_a_prometheus_that_is_named():
    settings, _ = parse_arguments(
        ["--prometheus", "far=https://b", "--prometheus-auth", "far=/etc/linnet/far"]
    )

    assert settings.prometheus_auth == {"far": "/etc/linnet/far"}
    with pytest.raises(SettingsError, match="there is no Prometheus 'default'"):
        parse_arguments(["--prometheus", "far=https://b", "--prometheus-auth", "/etc/linnet"])


@pytest.mark.parametrize(
    "url", ["http://ana:s3cret#x@h:1", "http://ana:s3cret/x@h:1", "htp://ana:s3cret@h", "s3cret"]
)
def test_a_password_is_not_in_the_sentence_about_its_address(url):
    with pytest.raises(SettingsError) as caught:
        parse_arguments(["--prometheus", url])

    assert "s3cret" not in str(caught.value)


def test_two_credentials_for_one_prometheus_are_one_too_many():
    with pytest.raises(SettingsError, match="keep one"):
        parse_arguments(["--prometheus", "http://ana:s3cret@h:1", "--prometheus-auth", "/etc/x"])


def test_a_password_is_not_printed():
    settings, _ = parse_arguments(["--prometheus", "http://ana:s3cret@h:1/prom"])

    assert settings.prometheus == {"default": "http://ana:s3cret@h:1/prom"}
    printed = settings.model_dump_json()
    assert "s3cret" not in printed
    assert "http://h:1/prom" in printed
