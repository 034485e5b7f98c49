"""Programs of the user's own: told of a swap, asked for health; both may fail, hang and lie."""

import asyncio
import contextlib
import os
import select
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from linnet_agent.errors import HookFailedError
from linnet_agent.programs import Handed, Programs
from linnet_agent.store import ModelKey

KEY = ModelKey("factory", "defects")
SHELL = "/bin/sh"


@pytest.fixture
def write(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / "programs.yaml"
        path.write_text(text)
        path.chmod(mode)
        return Programs(path)

    return write


@pytest.fixture
def handed(tmp_path):
    return Handed(KEY, "r2", tmp_path / "current" / "model")


def entry(reload=None, health=None):
    lines = ["- model: factory/defects"]
    lines += [f"  reload: {{{reload}}}"] if reload else []
    lines += [f"  health: {{{health}}}"] if health else []
    return "\n".join(lines) + "\n"


def command(script, timeout="20s"):
    return f"command: [{SHELL}, -c, {script!r}], timeout: {timeout}"


async def test_the_command_finds_the_model_and_nothing_of_the_agents(write, handed, tmp_path):
    out = tmp_path / "out"
    programs = write(entry(command(f"env > {out}; pwd >> {out}")))

    await programs.reload(handed)

    lines = out.read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    assert told.pop("PATH").startswith("/usr/local/sbin:")
    assert lines[-1] == "/"
    assert {name: told.get(name) for name in sorted(told) if name.startswith("LINNET")} == {
        "LINNET_DEPLOYMENT": "defects",
        "LINNET_MODEL": str(tmp_path / "current" / "model"),
        "LINNET_NAMESPACE": "factory",
        "LINNET_REVISION": "r2",
    }
    assert set(told) <= {*handed.environment(), "PWD", "SHLVL", "_", "OLDPWD"}


@pytest.mark.parametrize(
    ("reload", "words"),
    [
        pytest.param(
            command("echo one; echo no such unit >&2; exit 5"),
            "reload: /bin/sh ended with 5: no such unit",
            id="it fails",
        ),
        pytest.param(command("exit 1"), "ended with 1: it said nothing", id="without a word"),
        pytest.param(command("kill -SEGV $$"), "ended with -11", id="it crashes"),
        pytest.param("command: [/no/such/file]", "/no/such/file cannot be run", id="not there"),
        pytest.param("command: [/etc/passwd]", "/etc/passwd cannot be run", id="no program"),
        pytest.param(r'command: [/bin/sh, "a\0b"]', "cannot be run", id="a null"),
    ],
)
async def test_a_command_that_fails_is_a_verdict(write, handed, reload, words):
    with pytest.raises(HookFailedError, match=words):
        await write(entry(reload)).reload(handed)


@pytest.mark.slow
async def test_a_command_that_hangs_is_ended_with_all_that_it_started(write, handed, tmp_path):
    pid_file = tmp_path / "pid"
    hang = f"sleep 600 & echo $! > {pid_file}; wait"

    with pytest.raises(HookFailedError, match=r"reload: /bin/sh did not end within 1 s"):
        await write(entry(command(hang, timeout="1s"))).reload(handed)

    # A kill is not at once; only a process that was not killed is there for ten minutes.
    pid = int(pid_file.read_text())
    async with asyncio.timeout(20):
        await asyncio.to_thread(wait_dead, pid)


async def test_what_a_command_leaves_in_the_background_lives_on(write, handed, tmp_path):
    pid_file = tmp_path / "pid"

    await write(entry(command(f"sleep 600 & echo $! > {pid_file}"))).reload(handed)

    pid = int(pid_file.read_text())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
async def test_a_command_that_talks_without_end_costs_nothing(write, handed):
    talk = "head -c 20000000 /dev/zero | tr '\\\\0' x; echo; echo last words; exit 3"

    with pytest.raises(HookFailedError, match="ended with 3: last words"):
        await write(entry(command(talk))).reload(handed)


def wait_dead(pid):
    try:
        select.select([os.pidfd_open(pid)], [], [])
    except ProcessLookupError:
        return


def is_alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


# --- health ---------------------------------------------------------------------------------------


class Web:
    """A program's health address: it answers with what it is told to, or not at all."""

    def __init__(self, answer):
        self.answer = answer
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/healthz"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await asyncio.gather(*self.tasks)

    async def _serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer or b"")
        if self.answer is None:
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


OK = b"HTTP/1.1 204 No Content\r\n\r\n"
SICK = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
MOVED = b"HTTP/1.1 302 Found\r\nlocation: http://example.invalid/\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(OK, "", id="well"),
        pytest.param(SICK, "answered 503", id="sick"),
        pytest.param(MOVED, "answered 302", id="it leads elsewhere"),
        pytest.param(b"SSH-2.0-x\r\n", "does not answer: RemoteProtocolError", id="no HTTP"),
        pytest.param(None, "did not answer within 0.2 s", id="never"),
    ],
)
async def test_health_over_http(write, handed, answer, said):
    async with Web(answer) as web:
        programs = write(
            entry(
                health=f'url: "{web.url}", timeout: 200ms'
                if answer is None
                else f'url: "{web.url}"'
            )
        )

        sick = await programs.ask_health(handed)

    assert said in sick
    assert bool(sick) == bool(said)


async def test_a_health_address_where_nobody_listens(write, handed):
    async with Web(OK) as web:
        pass

    sick = await write(entry(health=f'url: "{web.url}"')).ask_health(handed)

    assert sick == f"health: {web.url} does not answer: ConnectError"


async def test_health_by_a_command(write, handed):
    well = write(entry(health=command('test "$LINNET_REVISION" = r2')))
    assert await well.ask_health(handed) == ""

    sick = write(entry(health=command("echo warming up; exit 1")))
    assert await sick.ask_health(handed) == "health: /bin/sh ended with 1: warming up"


# --- the file -------------------------------------------------------------------------------------


async def test_no_file_and_no_entry_are_nobody_to_tell(write, handed, tmp_path):
    for programs in (Programs(tmp_path / "nowhere.yaml"), write(""), write("[]")):
        assert not programs.has_hook(KEY)
        await programs.reload(handed)
        assert await programs.ask_health(handed) == ""


def test_an_entry_is_its_deployments_alone(write):
    programs = write(entry(command("exit 0")))

    assert programs.has_hook(KEY)
    assert not programs.has_hook(ModelKey("factory", "other"))
    assert not programs.has_hook(ModelKey("other", "defects"))
    assert programs.find(KEY).reload.timeout == timedelta(seconds=20)


def test_the_file_is_read_again_when_it_changes(write):
    assert not write("").has_hook(KEY)
    programs = write("")
    assert not programs.has_hook(KEY)

    write(entry(command("exit 0")))

    assert programs.has_hook(KEY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "cannot be read", id="no YAML"),
        pytest.param("model: factory/defects", "valid tuple", id="no list"),
        pytest.param("- model: defects", "model: String should match", id="no namespace"),
        pytest.param("- {model: a/b, relaod: {}}", "relaod: Extra inputs", id="a typing error"),
        pytest.param(entry("command: []"), "reload.command", id="no command"),
        pytest.param(entry("command: [systemctl]"), "begins with an absolute path", id="no path"),
        pytest.param(entry("command: [/x], timeout: 1d"), "timeout", id="a day"),
        pytest.param(entry("command: [/x], timeout: soon"), "timeout", id="no duration"),
        pytest.param(entry(health="timeout: 1s"), "either a url or a command", id="neither"),
        pytest.param(
            entry(health='url: "http://x", command: [/x]'), "either a url or a command", id="both"
        ),
        pytest.param(entry(health='url: "file:///etc/passwd"'), "health.url", id="not http"),
        pytest.param("- {model: a/b}\n- {model: a/b}", "names a model twice", id="twice"),
        pytest.param("!!python/object/apply:os.system [id]", "cannot be read", id="an attack"),
        pytest.param("[" * 100_000, "cannot be read", id="deep"),
        pytest.param("#" * (2 << 20), "not a file of at most", id="large"),
    ],
)
async def test_a_file_that_cannot_be_used_is_a_verdict(write, handed, text, words):
    programs = write(text)

    assert programs.has_hook(KEY)
    with pytest.raises(HookFailedError, match=words):
        await programs.reload(handed)
    assert words in await programs.ask_health(handed)


async def test_a_file_that_others_may_write_names_no_commands(write, handed, tmp_path):
    out = tmp_path / "out"
    programs = write(entry(command(f"touch {out}")), mode=0o622)

    with pytest.raises(HookFailedError, match="can be written by others"):
        await programs.reload(handed)

    assert not out.exists()
