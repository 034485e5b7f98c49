"""Verifying a signed directory: ``linnet verify`` beside ``model_signing verify``, whole commands.

- Both check the same signature over the same files, which ``model_signing`` has made.
- ``model_signing`` runs in an environment of its own, made once from hashed requirements.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from bench.agent.measuring import Line, SkippedError, in_turns, measure_process, write_model
from linnet_cli.publish.keys import generate_key
from linnet_testbed import Settings

REQUIREMENTS = Path(__file__).parents[1] / "requirements" / "model-signing.txt"


def measure(scratch, *, size, runs):
    model = write_model(scratch / "model", size=size)
    private, public = generate_key()
    (scratch / "key").write_bytes(private)
    (scratch / "key.pub").write_bytes(public)
    peer = install_peer()
    signature = scratch / "model.sig"
    subprocess.run(
        [
            *(peer, "-m", "model_signing", "sign", "key"),
            *("--private_key", scratch / "key", "--signature", signature, model),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    linnet = [Path(sys.executable).with_name("linnet"), "verify", model]
    theirs = [peer, "-m", "model_signing", "verify", "key", "--public_key", scratch / "key.pub"]
    commands = {
        "linnet": [*linnet, "--key", scratch / "key.pub", "--bundle", signature],
        "model_signing": [*theirs, "--signature", signature, model],
    }
    _refuse_changed(model, commands)
    costs = in_turns(
        {name: lambda argv=argv: measure_process(argv) for name, argv in commands.items()},
        runs=runs,
    )
    ours, other = costs["linnet"], costs["model_signing"]
    return [
        Line("verify: linnet verify", ours.seconds, "s", note=f"CPU {ours.cpu_s:.2f} s"),
        Line("verify: model_signing 1.1.1", other.seconds, "s", note=f"CPU {other.cpu_s:.2f} s"),
        Line("verify: time against model_signing", ours.seconds / other.seconds, "x", 0.45),
        Line("verify: peak memory of linnet", ours.peak_mib, "MiB", 40),
        Line("verify: peak memory of model_signing", other.peak_mib, "MiB"),
    ]


def _refuse_changed(model, commands):
    """See that both refuse: a verifier that says yes to everything is fast."""
    path = next(model.iterdir())
    with path.open("r+b") as file:
        first = file.read(1)
        for flipped in (bytes([first[0] ^ 1]), first):
            file.seek(0)
            file.write(flipped)
            file.flush()
            for argv in commands.values():
                code = subprocess.run(argv, capture_output=True, check=False).returncode
                if (code == 0) is not (flipped == first):
                    raise RuntimeError(f"{argv[0]} ends with {code} on the wrong model")


def install_peer():
    """Return the Python of an environment that has ``model_signing``.

    Raises:
        SkippedError: It cannot be installed.
    """
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = Settings.from_environment().cache_home / "bench" / f"model-signing-{key}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    print(f"installing model_signing into {home}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run(
            [*pip, "--require-hashes", "--no-deps", "-r", REQUIREMENTS],
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise SkippedError(
            f"model_signing cannot be installed: {error.stderr.strip()[-200:]}"
        ) from error
    (home / "complete").touch()
    return python
