"""What a hub says, written down by the agent's own parts: policies, orders, and that they are gone.

LINNET_CRASH_LOG=FILE   where a name is written after each call that has returned
Its argument is the node's directory.
"""

import asyncio
import copy
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from linnet_agent.app import Agent
from linnet_agent.settings import Settings

_NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


async def main():
    root = Path(sys.argv[1])
    log = os.open(os.environ["LINNET_CRASH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # noqa: TID251
    settings = Settings(
        root=root,
        node="edge-1",
        api_server="http://127.0.0.1:9",
        token_file=None,
        ca_file=None,
        ceiling=root / "none",
    )
    agent = Agent(settings, clock=lambda: _NOON, jitter=lambda: 0.5)
    agent._store.prepare()
    agent._trust.load()
    agent._desired.load()
    spec = json.loads((root / "trust" / "policies.json").read_bytes())["release"]
    [kept] = [json.loads(path.read_bytes()) for path in (root / "desired").iterdir()]
    newer = copy.deepcopy(kept)
    newer["metadata"]["generation"] += 1
    newer["spec"]["sequence"] += 1
    other = copy.deepcopy(newer)
    other["metadata"]["name"] = other["spec"]["deployment"] = "letters"
    first, second = {"spec": spec}, {"spec": spec}
    for step in (
        lambda: agent._trust.replace({"release": first}),
        lambda: agent._desired.put("factory/digits-1", newer),
        lambda: agent._trust.put("more", second),
        lambda: agent._desired.put("factory/letters", other),
        lambda: agent._trust.drop("more"),
        lambda: agent._desired.drop("factory/letters"),
        lambda: agent._desired.replace({}),
    ):
        step()
        os.write(log, b"after.note\n")


if __name__ == "__main__":
    logging.disable()  # that orders vanish is what it does
    asyncio.run(main())
