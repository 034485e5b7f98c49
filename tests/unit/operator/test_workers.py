"""The judge's processes: they are replaced when they die, and do not outlive the operator."""

import os
import select
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest

from linnet_operator.learning import Workers

pytestmark = pytest.mark.slow

PARENT = """
import asyncio, os
from linnet_operator.learning import Workers

async def main():
    print(await Workers(1).run(os.getpid), flush=True)
    await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture
def workers():
    made = Workers(1)
    yield made
    made.close()


async def test_a_worker_that_died_is_replaced(workers):
    first = await workers.run(os.getpid)
    os.kill(first, signal.SIGKILL)

    second = await workers.run(os.getpid)

    assert second not in {first, os.getpid()}


async def test_work_that_kills_two_workers_is_an_error(workers):
    with pytest.raises(BrokenProcessPool):
        await workers.run(os._exit, 1)


def test_a_worker_does_not_outlive_an_operator_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        descriptor = os.pidfd_open(worker)
        parent.kill()

    # The worker is not our child: its descriptor becomes readable when it ends.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(10_000)
