"""Start-up: what the read path may not import, because each costs more than the whole command."""

import subprocess
import sys

import pytest

DENIED = {
    "pydantic",
    "kubernetes",
    "httpx",
    "rich",
    "typer",
    "click",
    "requests",
    "aiohttp",
    "cryptography",
    "linnet_api",
    "linnet_operator",
    "linnet_agent",
    "dataclasses",
    "asyncio",
    "pathlib",
    "logging",
}
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "http://127.0.0.1:9"}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users: [{name: me, user: {token: abc}}]
"""


def modules_of(*argv):
    """Return the top-level modules that a command line has imported, and its exit code."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import linnet_cli.__main__ as m\n"
        f"sys.argv = ['linnet', *{argv!r}]\n"
        "code = m.main()\n"
        "print(int(code), *sorted({n.partition('.')[0] for n in set(sys.modules) - before}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    code, *names = done.stdout.splitlines()[-1].split()
    return int(code), set(names), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("argv", [("--help",), ("status", "--help")], ids=" ".join)
def test_help_imports_neither_models_nor_tls(argv):
    code, names, _ = modules_of(*argv)

    assert code == 0
    assert not names & (DENIED | {"http", "yaml", "subprocess"})
    assert "ssl" not in names or argv != ("--help",)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["status", "explain", "wait", "abort"])
def test_the_way_to_the_cluster_imports_nothing_that_is_denied(command, tmp_path):
    path = tmp_path / "config"
    path.write_text(KUBECONFIG, encoding="utf-8")

    code, names, talk = modules_of(
        command, "digits", f"--kubeconfig={path}", *(["--timeout=0s"] * (command == "wait"))
    )

    # Nobody listens at that address: by then all that talks to a cluster has been imported.
    assert code == (4 if command == "wait" else 1)
    assert "connection refused" in talk
    assert "http" in names
    assert not names & DENIED
