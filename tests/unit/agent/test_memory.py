"""A process that was large for a moment is small again."""

import subprocess
import sys

import pytest

PROGRAM = """
import threading
from linnet_agent.memory import give_back, use_one_arena

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

use_one_arena()
before = resident()
pinned = []

def work():
    junk = [bytes(2000) for _ in range(40_000)]
    pinned.append(junk[-1])

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
height = resident()
give_back()
print(before, height, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_threads_have_used_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, height, after = map(int, done.stdout.split())

    assert height - before > 50 << 20
    assert after - before < 16 << 20
