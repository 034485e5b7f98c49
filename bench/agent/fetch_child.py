"""One run of a fetch, in a process of its own: what it costs, as JSON on stdout."""

import asyncio
import hashlib
import http.client
import json
import os
import re
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

_CHUNK = 1 << 20


def main(name, spec):
    target = Path(spec["target"])
    target.mkdir()
    prepared = {"agent": prepare_agent, "http": prepare_http, "copy": prepare_copy}[name](spec)
    used, started = _cpu_s(), time.perf_counter()
    prepared(target)
    seconds, cpu_s = time.perf_counter() - started, _cpu_s() - used
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mib": _peak_mib()}))


def _cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak_mib():
    """Return this program's own peak; ``ru_maxrss`` also knows of whoever has started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def prepare_agent(spec):
    from linnet_agent.fetch.oci import OciClient  # noqa: PLC0415 - not of the others
    from linnet_agent.fetch.sources import Sources  # noqa: PLC0415
    from linnet_agent.store import Store  # noqa: PLC0415
    from linnet_agent.verify.artifact import verify_artifact  # noqa: PLC0415
    from linnet_api.trust_policy import Authority, Key, TrustPolicySpec  # noqa: PLC0415

    policy = TrustPolicySpec(
        authorities=(Authority(name="release", key=Key(public_key_pem=spec["key"])),)
    )

    async def fetch(root):
        store = Store(root)
        store.prepare()
        sources = Sources({"oci": OciClient(mirrors=spec["mirrors"])})
        digest = await sources.resolve(spec["source"])
        artifact = await sources.fetch_artifact(spec["source"], digest)
        verified = verify_artifact(
            artifact,
            expected_model="bench/model",
            policies={"release": policy},
            ceiling=None,
            floor=1,
            now=datetime.now(UTC),
        )
        assert verified.decision.allowed, verified.decision
        staged = store.staging_directory(artifact.digest)
        await sources.fetch_layers(artifact, into=staged)
        store.admit(staged, verified.model_digest)
        await sources.aclose()
        assert store.has(verified.model_digest)

    return lambda target: asyncio.run(fetch(target))


def prepare_http(spec):
    url = urlsplit(spec["url"])
    path = f"/v2/{spec['source'].partition('://')[2].partition('/')[2].partition(':')[0]}"
    manifest = _get(url, f"{path}/manifests/{spec['digest']}")
    layers = [
        (f"file-{number}", layer["digest"])
        for number, layer in enumerate(json.loads(manifest)["layers"])
    ]

    def copy(target):
        connection = http.client.HTTPConnection(url.hostname, url.port)
        for name, digest in layers:
            connection.request("GET", f"{path}/blobs/{digest}")
            with connection.getresponse() as response:
                assert _copy(response, target / name) == digest
        connection.close()

    return copy


def prepare_copy(spec):
    files = sorted(Path(spec["model"]).iterdir())

    def copy(target):
        for path in files:
            with path.open("rb", buffering=0) as file:
                _copy(file, target / path.name)

    return copy


def _copy(source, target):
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with target.open("wb", buffering=0) as file:
        while count := source.readinto(buffer):
            digest.update(buffer[:count])
            file.write(buffer[:count])
        os.fsync(file.fileno())
    return "sha256:" + digest.hexdigest()


def _get(url, path):
    connection = http.client.HTTPConnection(url.hostname, url.port)
    connection.request(
        "GET", path, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}
    )
    with connection.getresponse() as response:
        body = response.read()
    connection.close()
    return body


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
