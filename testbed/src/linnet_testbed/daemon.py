"""What runs beside a bed as a process of its own: `network FILE` or `tokens FILE`."""

import asyncio
import logging
import sys
from pathlib import Path

from linnet_testbed import network, tokens


def main(what: str, configuration: Path) -> None:
    """Run until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if what == "network":
        asyncio.run(network.serve(configuration))
    else:
        tokens.keep_fresh(configuration)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
