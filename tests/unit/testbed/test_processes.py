"""Our processes are started once and ended whole; those of others are never touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from linnet_testbed import TestbedError, files
from linnet_testbed.processes import Process, identity, marked
from linnet_testbed.waiting import until

pytestmark = pytest.mark.slow

FOREVER = "import time; print('here', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {FOREVER!r}], start_new_session=True)
time.sleep(600)
"""


@pytest.fixture
def make(tmp_path):
    made = []

    def process(code=FOREVER, name="one", **more):
        made.append(Process(name, tmp_path, [sys.executable, "-c", code], **more))
        return made[-1]

    yield process
    for one in made:
        one.kill()


def test_start_twice_is_one_process(make):
    process = make()
    process.start()
    first = process.pid
    process.start()
    assert first is not None
    assert process.pid == first
    until(lambda: "here" in process.log.read_text())


def test_a_dead_one_is_started_again(make):
    process = make()
    process.start()
    first = process.pid
    os.kill(first, 9)
    until(lambda: process.pid is None)
    process.start()
    assert process.pid not in {None, first}


def test_kill_takes_the_children_too_also_those_in_a_session_of_their_own(make):
    process = make(PARENT)
    process.start()
    until(lambda: len(marked(process.mark)) == 2)
    process.kill()
    assert marked(process.mark) == []


def test_children_of_a_dead_one_are_gone_before_it_starts_again(make):
    process = make(PARENT)
    process.start()
    until(lambda: len(marked(process.mark)) == 2)
    (child,) = set(marked(process.mark)) - {process.pid}
    os.kill(process.pid, 9)
    until(lambda: process.pid is None)
    process.start()
    assert identity(child) is None


def test_stop_makes_a_deaf_one_end(make):
    process = make(DEAF, grace=0.2)
    process.start()
    until(lambda: "here" in process.log.read_text())
    process.stop()
    assert process.pid is None


def test_a_stranger_with_a_recorded_pid_is_not_ours_and_lives(make):
    process = make()
    with subprocess.Popen([sys.executable, "-c", FOREVER], stdout=subprocess.DEVNULL) as stranger:
        files.write_json(process.record, {"pid": stranger.pid, "identity": "12345678-1"})
        assert process.pid is None
        process.stop()
        process.kill()
        assert stranger.poll() is None
        stranger.kill()


def test_a_bed_whose_name_begins_alike_is_another(make, tmp_path):
    process = make()
    process.start()
    assert marked(f"{tmp_path}:") == [process.pid]
    assert marked(f"{tmp_path}"[:-1] + ":") == []


def test_one_that_ends_at_once_says_its_last_words(make):
    process = make("import sys; sys.exit('no such flag: --port')")
    process.start()
    with pytest.raises(TestbedError, match=r"ended right after its start(.|\n)*no such flag"):
        process.wait(lambda: False, 20)


def test_settings_of_this_process_do_not_leak(make, monkeypatch):
    monkeypatch.setenv("LINNET_AGENT_NODE", "leak")
    process = make(environment={"WANTED": "1"})
    process.start()
    environment = Path(f"/proc/{process.pid}/environ").read_text()
    assert "leak" not in environment
    assert "WANTED=1" in environment
