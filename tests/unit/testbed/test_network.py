"""The network between nodes and everything else: cut, stalled, slow, lossy, broken."""

import asyncio

import pytest

from linnet_testbed.network import Link, Proxy, order
from linnet_testbed.ports import assign

pytestmark = pytest.mark.slow


class Wire:
    """An echo server behind one link, and the proxy that carries it."""

    def __init__(self, control, echo, listen):
        self.control, self.echo, self.listen = control, echo, listen

    async def tell(self, op, **more):
        what = {"op": op, "node": "edge-1", **more}
        return await asyncio.to_thread(order, self.control, what)

    async def dial(self):
        return await asyncio.open_connection("127.0.0.1", self.listen)


async def echo(reader, writer):
    while chunk := await reader.read(4096):
        writer.write(chunk)
        await writer.drain()
    writer.close()


@pytest.fixture
async def wire(tmp_path):
    given = assign(["echo", "link"], {}, lambda _: False, set(), str(tmp_path))
    server = await asyncio.start_server(echo, "127.0.0.1", given["echo"])
    link = Link("edge-1", "api", given["link"], ("127.0.0.1", given["echo"]))
    other = Link("edge-1", "registry", 0, ("127.0.0.1", given["echo"]))
    stop = asyncio.Event()
    control = tmp_path / "s"
    proxy = Proxy([link, other], lambda: 0.5)
    task = asyncio.create_task(proxy.run(control, stop))
    await proxy.started.wait()
    async with asyncio.timeout(20):
        yield Wire(control, given["echo"], given["link"])
    stop.set()
    await task
    server.close()


async def ask(ends, text=b"hello", seconds=5):
    reader, writer = ends
    async with asyncio.timeout(seconds):
        writer.write(text)
        await writer.drain()
        return await reader.readexactly(len(text))


async def hang_up(*all_ends):
    for _, writer in all_ends:
        writer.transport.abort()
    await asyncio.sleep(0)


async def test_a_whole_network_carries_both_ways_and_passes_the_end_on(wire):
    reader, writer = await wire.dial()
    assert await ask((reader, writer), b"x" * 200_000) == b"x" * 200_000
    writer.write_eof()
    assert await reader.read() == b""
    await hang_up((reader, writer))


async def test_a_cut_resets_open_connections_and_hangs_new_ones_until_restored(wire):
    old = await wire.dial()
    await ask(old)
    (now, _) = await wire.tell("cut")
    assert now["cut"]
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await ask(old)
    new = await wire.dial()
    with pytest.raises(TimeoutError):
        await ask(new, seconds=0.3)
    await wire.tell("restore")
    async with asyncio.timeout(5):
        assert await new[0].readexactly(5) == b"hello"
    await hang_up(old, new)


async def test_a_cut_without_reset_stalls_what_is_open(wire):
    ends = await wire.dial()
    await ask(ends)
    await wire.tell("cut", reset=False)
    with pytest.raises(TimeoutError):
        await ask(ends, seconds=0.3)
    await wire.tell("restore")
    async with asyncio.timeout(5):
        assert await ends[0].readexactly(5) == b"hello"
    await hang_up(ends)


async def test_a_cut_of_one_link_leaves_the_others(wire):
    await wire.tell("cut", links=["registry"])
    ends = await wire.dial()
    assert await ask(ends) == b"hello"
    assert [link["cut"] for link in await wire.tell("status")] == [False, True]
    await hang_up(ends)


async def test_delay_holds_both_directions(wire):
    ends = await wire.dial()
    await wire.tell("faults", faults={"delay": 0.2})
    start = asyncio.get_running_loop().time()
    await ask(ends)
    assert asyncio.get_running_loop().time() - start >= 0.4
    await hang_up(ends)


async def test_dropped_connections_are_reset(wire):
    await wire.tell("faults", faults={"drop_rate": 1.0})
    ends = await wire.dial()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await ask(ends)
    await hang_up(ends)


async def test_a_connection_breaks_after_so_many_bytes_once(wire):
    await wire.tell("faults", faults={"break_after": 1000, "break_times": 1})
    first = await wire.dial()
    first[1].write(b"x" * 5000)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)) as broken:
        async with asyncio.timeout(5):
            await first[0].readexactly(5000)
    if isinstance(broken.value, asyncio.IncompleteReadError):
        assert len(broken.value.partial) <= 1000
    second = await wire.dial()
    assert await ask(second, b"y" * 5000) == b"y" * 5000
    await hang_up(first, second)


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "cut", "node": "edge-9"},
        {"op": "burn", "node": "edge-1"},
        {"op": "faults", "node": "edge-1", "faults": {"colour": 1}},
    ],
)
async def test_a_wrong_order_is_refused_and_harms_nothing(wire, wrong):
    with pytest.raises(ValueError, match="no such"):
        await asyncio.to_thread(order, wire.control, wrong)
    ends = await wire.dial()
    assert await ask(ends) == b"hello"
    await hang_up(ends)


async def test_a_target_that_is_not_there_resets(wire):
    ends = await asyncio.open_connection("127.0.0.1", wire.listen)
    await ask(ends)
    await wire.tell("reset")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await ask(ends)
    await hang_up(ends)
