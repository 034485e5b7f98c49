"""README.md: its first deployment works as written, as far as it needs no registry or cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def first_deployment():
    """Return the commands of the section, without those that go to a registry or a cluster."""
    section = (ROOT / "README.md").read_text().split("\n## Your first deployment\n")[1]
    lines = [line.strip() for line in section.split("\n## ")[0].splitlines()]
    commands = [line for line in lines if line.startswith(("linnet ", "sed ", "kubectl "))]
    return [line for line in commands if not line.startswith(("linnet push", "kubectl "))]


@pytest.mark.slow
def test_the_first_deployments_model_is_one_that_a_node_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"weights")
    commands = first_deployment()

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert [line.split()[1] for line in commands if line.startswith("linnet")] == [
        "keygen",
        "sign",
        "verify",
    ]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "allowed: factory/defects, counter 21" in done.stdout
