"""A real OCI registry, of a bed or alone."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from linnet_testbed import files, ports
from linnet_testbed.binaries import Binaries
from linnet_testbed.progress import Progress
from linnet_testbed.settings import Settings
from linnet_testbed.waiting import answers, until

ENVIRONMENT = {"OTEL_TRACES_EXPORTER": "none"}


def write_configuration(path: Path, *, root: Path, port: int) -> None:
    """Write what `registry serve` reads: blobs under `root`, on a loopback port."""
    configuration = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    files.write(path, yaml.safe_dump(configuration))


@contextmanager
def running_registry(directory: Path) -> Iterator[str]:
    """Yield the URL of a registry of one's own that keeps its blobs in a directory.

    Raises:
        TestbedUnavailableError: It is not there and cannot be built.
    """
    settings = Settings.from_environment()
    program = Binaries(settings.cache_home, Progress(quiet=True)).registry()
    configuration, port = directory / "registry.yml", ports.any_free()
    write_configuration(configuration, root=directory / "registry", port=port)
    with subprocess.Popen(
        [program, "serve", configuration],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{url}/v2/"), 60, "the registry answers")
            yield url
        finally:
            process.kill()
