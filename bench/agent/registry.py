"""The testbed's registry, alone."""

import json
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

from bench.agent.measuring import SkippedError
from linnet_testbed import Settings, TestbedUnavailableError
from linnet_testbed.binaries import Binaries
from linnet_testbed.progress import Progress

_LIMIT_S = 60


@contextmanager
def running_registry(directory):
    """Yield the URL of a real registry that keeps its blobs in a directory.

    Raises:
        SkippedError: There is none here, and none can be built.
    """
    settings = Settings.from_environment()
    try:
        program = Binaries(settings.cache_home, Progress(quiet=True)).registry()
    except TestbedUnavailableError as error:
        raise SkippedError(str(error)) from error
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (directory / "config.yml").write_text(json.dumps(config))
    process = subprocess.Popen(
        [program, "serve", directory / "config.yml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        _wait_answers(f"http://127.0.0.1:{port}/v2/")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _wait_answers(url):
    deadline = time.monotonic() + _LIMIT_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - loopback
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
