"""What a publisher's command takes from outside its arguments: mirrors, credentials, the clock."""

import os
from datetime import UTC, datetime
from pathlib import Path


def read_mirrors() -> str:
    """Return LINNET_REGISTRY_MIRRORS: ``host=url``, separated by commas."""
    return os.environ.get("LINNET_REGISTRY_MIRRORS", "")


def docker_config_path() -> Path:
    """Return where Docker keeps credentials; the file need not be there."""
    directory = os.environ.get("DOCKER_CONFIG")
    return (Path(directory) if directory else Path.home() / ".docker") / "config.json"


def read_clock() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
