"""A hub that does what a test tells it to: the faults that no real API server can be asked for."""

import asyncio
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from linnet_agent.hub import Hub

# Test directories are no packages: this is how the tests here share the node on paper.
_SPEC = importlib.util.spec_from_file_location(
    "paper_node", Path(__file__).with_name("paper_node.py")
)
sys.modules["paper_node"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules["paper_node"])


@dataclass
class Request:
    method: str
    path: str
    query: str
    headers: dict
    body: bytes


@dataclass
class Answer:
    """``body`` is bytes, JSON, or a list of lines; a watch that ``hangs`` is never ended."""

    body: object = field(default_factory=dict)
    status: int = 200
    headers: dict = field(default_factory=dict)
    hangs: bool = False
    length: bool = True

    def raw(self):
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, list):
            return b"".join(json.dumps(line).encode() + b"\n" for line in self.body)
        return json.dumps(self.body).encode()


class FakeHub:
    """Answers in turn, then again and again what was told last; a callable sees the request."""

    answer = Answer

    def __init__(self):
        self.answers = [Answer()]
        self.requests = []
        self.url = ""
        self._done = asyncio.Event()
        self._news = asyncio.Event()

    def tell(self, *answers):
        self.answers = list(answers)

    def seen(self, method=None, *, watch=None):
        return [
            r
            for r in self.requests
            if (method is None or r.method == method)
            and (watch is None or ("watch=1" in r.query) is watch)
        ]

    async def until(self, condition):
        """Return once it has been asked what ``condition`` wants."""
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def serve(self, reader, writer):
        try:
            while request := await self._read(reader):
                self.requests.append(request)
                self._news.set()
                answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
                answer = answer(request) if callable(answer) else answer
                if answer is None:
                    break
                await self._write(writer, answer)
                if not answer.length:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader):
        line = (await reader.readline()).decode()
        if not line:
            return None
        method, target, _ = line.split()
        headers = {}
        while (line := (await reader.readline()).decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path, _, query = target.partition("?")
        return Request(method, path, query, headers, body)

    async def _write(self, writer, answer):
        raw = answer.raw()
        headers = dict(answer.headers)
        if answer.length and not answer.hangs:
            headers["Content-Length"] = str(len(raw))
        lines = [f"HTTP/1.1 {answer.status} X", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + raw)
        await writer.drain()
        if answer.hangs:
            await self._done.wait()


@pytest.fixture
async def fake():
    hub = FakeHub()
    server = await asyncio.start_server(hub.serve, "127.0.0.1", 0)
    hub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield hub
    hub._done.set()
    server.close()


@pytest.fixture
async def hub(fake, tmp_path):
    (tmp_path / "token").write_text("first")
    made = Hub(fake.url, token_file=tmp_path / "token", ca_file=None, watch_s=60, silence_s=30)
    yield made
    await made.aclose()
