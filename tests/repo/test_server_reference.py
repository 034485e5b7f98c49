"""docs/reference/server.md says what there is: flags, runtimes, hints, metrics, examples."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from linnet_agent.programs import Programs
from linnet_agent.store import ModelKey
from linnet_server.metrics import Metrics
from linnet_server.runtimes.hints import Hints, read_hints
from linnet_server.runtimes.targets import Target

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "server.md").read_text()


def rows(title):
    """Return the first cells of the table below a heading."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def example(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.mark.slow
def test_every_flag_is_there_and_no_other():
    done = subprocess.run(
        [sys.executable, "-m", "linnet_server", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    offered = set(re.findall(r"(?m)^  (--[a-z-]+)", done.stdout)) - {"--print-config"}

    assert {row.split()[0] for row in rows("Flags")} == offered


def test_every_runtime_is_there():
    assert set(Target) <= set(rows("Runtimes"))


def test_every_metric_is_there_and_no_other():
    told = set(re.findall(r"(?m)^# TYPE (\S+) ", Metrics().render().decode()))

    assert told
    assert set(rows("Metrics")) == told


def test_the_hints_are_all_there_and_can_be_read(tmp_path):
    text = example("json")
    (tmp_path / "runtime.json").write_text(text)

    read_hints(tmp_path)

    names = {field.alias for field in Hints.model_fields.values()}
    assert set(json.loads(text)) == names
    assert all(f"`{name}`" in PAGE for name in names)


def test_the_program_can_be_read(tmp_path):
    path = tmp_path / "programs.yaml"
    path.write_text(example("yaml"))
    path.chmod(0o600)

    program = Programs(path).find(ModelKey("factory", "defects"))

    assert program.reload.command[-1] == yaml.safe_load(example("yaml"))[0]["reload"]["command"][-1]
    assert program.health.url.endswith("/healthz")
