"""Log lines: JSON where nobody watches, text on a terminal; the event's name, then the facts."""

import json
import logging
import sys
from typing import Final

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging() -> None:
    """Send the process's log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=not sys.stderr.isatty()))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class LineFormatter(logging.Formatter):
    """One event a line."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = {key: value for key, value in vars(record).items() if key not in _OWN}
        if not self._as_json:
            pairs = " ".join(f"{key}={value}" for key, value in facts.items())
            level, event = record.levelname.lower(), record.getMessage()
            line = f"{self.formatTime(record)} {level} {event} {pairs}"
            return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
        head = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(head | facts, default=str)
