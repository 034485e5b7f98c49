"""The command ``linnet-operator``."""

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from linnet_operator.errors import OperatorError, SettingsError
from linnet_operator.settings import Settings, parse_arguments

log = logging.getLogger("linnet_operator")

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator; return 0 after SIGTERM, 1 after a fatal error, 2 on bad settings."""
    try:
        settings, print_config = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        sys.stderr.write(f"linnet-operator: {error}. {error.remedy}\n")
        return 2
    if print_config:
        print(settings.model_dump_json(indent=2))
        return 0
    _set_up_logging(settings)
    # Imported here, so that a worker process, which imports this module anew, stays small.
    from linnet_operator.app import run  # noqa: PLC0415 - see above

    try:
        asyncio.run(run(settings))
    except* OperatorError as errors:
        for reason, remedy in _explained(errors):
            facts = {"reason": reason, "remedy": remedy}
            log.error("operator.fatal", extra=facts)  # noqa: TRY400 - expected: no traceback
        return_code = 1
    except* Exception:
        log.exception("operator.fatal")
        return_code = 1
    else:
        return_code = 0
    return return_code


def _explained(errors: BaseExceptionGroup[OperatorError]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _explained(error)
        else:
            found.append((str(error), error.remedy))
    return found


def _set_up_logging(settings: Settings) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if settings.log_format == "json" else _TextLines())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # Kopf tells of every object that it has seen.
    logging.getLogger("kopf").setLevel(logging.WARNING)


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _PLAIN}


class _TextLines(logging.Formatter):
    """One line of text: time, level, event, facts."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        facts = "".join(f" {key}={value!s}" for key, value in _facts(record).items())
        line = f"{time} {record.levelname.lower()} {record.getMessage()}{facts}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonLines(logging.Formatter):
    """One JSON object a line, for pods."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat()
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line | _facts(record), default=str)


if __name__ == "__main__":
    sys.exit(main())
