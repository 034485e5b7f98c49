"""List and watch against a hub that lies, stutters and forgets; the sink is what was told."""

import asyncio

import pytest

from linnet_agent.sync import Link, follow


class Sink:
    def __init__(self):
        self.told = []
        self.news = asyncio.Event()

    def replace(self, items):
        self._tell(("all", sorted(items)))

    def put(self, name, item):
        self._tell(("put", name, item["metadata"]["resourceVersion"]))

    def drop(self, name):
        self._tell(("drop", name))

    def confirm(self):
        self._tell("heard")

    def _tell(self, what):
        self.told.append(what)
        self.news.set()

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition(self.told):
                self.news.clear()
                await self.news.wait()


def named(name, version):
    return {"metadata": {"name": name, "resourceVersion": version}}


def event(kind, name, version):
    return {"type": kind, "object": named(name, version)}


def listing(*names, version="10"):
    items = [named(name, "1") for name in names]
    return {"items": items, "metadata": {"resourceVersion": version}}


@pytest.fixture
async def followed(hub):
    """Follow ``/l`` until the test is over."""
    tasks = []
    sink, link = Sink(), Link()

    def start():
        work = follow(hub, "/l", {}, sink=sink, link=link, jitter=lambda: 0.0, max_wait_s=0.02)
        tasks.append(asyncio.ensure_future(work))
        return sink, link

    yield start
    for task in tasks:
        assert not task.done(), task
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def told(what):
    return lambda seen: what in seen


async def test_a_listing_then_changes_and_the_place_is_kept_over_the_end_of_a_watch(fake, followed):
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "15"}}}
    fake.tell(
        fake.answer(listing("a")),
        fake.answer([event("ADDED", "b", "11"), event("DELETED", "a", "12"), bookmark]),
        fake.answer(listing("b", version="20")),
        fake.answer([], hangs=True),
    )

    sink, _ = followed()
    await sink.until(told(("all", ["b"])))

    heard = "heard"  # with each change, and with the bookmark that says that there is none
    assert sink.told == [
        ("all", ["a"]),
        *(heard, ("put", "b", "11")),
        *(heard, ("drop", "a")),
        heard,
        ("all", ["b"]),
    ]
    assert "resourceVersion=10" in fake.seen(watch=True)[0].query


async def test_a_watch_that_ends_by_itself_goes_on_where_it_was(fake, followed, monkeypatch):
    monkeypatch.setattr("linnet_agent.sync._SHORT_S", 0.0)
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "15"}}}
    fake.tell(
        fake.answer(listing("a")),
        fake.answer([bookmark]),
        fake.answer([event("MODIFIED", "a", "16")], hangs=True),
    )

    sink, _ = followed()
    await sink.until(told(("put", "a", "16")))

    assert len(fake.seen(watch=False)) == 1
    assert "resourceVersion=15" in fake.seen(watch=True)[1].query


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500])
async def test_a_watch_that_is_refused_is_followed_by_a_new_list(fake, followed, status):
    fake.tell(
        fake.answer(listing("a")),
        fake.answer({"message": "no"}, status=status),
        fake.answer(listing("b")),
        fake.answer([], hangs=True),
    )

    sink, _ = followed()
    await sink.until(told(("all", ["b"])))


async def test_a_server_that_went_back_in_time_is_listed_again(fake, followed):
    fake.tell(
        fake.answer(listing("a", version="100")),
        fake.answer([event("MODIFIED", "a", "101"), event("MODIFIED", "a", "40")], hangs=True),
        fake.answer(listing("a", version="41")),
        fake.answer([], hangs=True),
    )

    sink, _ = followed()
    await sink.until(lambda seen: seen.count(("all", ["a"])) == 2)

    assert ("put", "a", "40") not in sink.told


async def test_a_server_that_expires_everything_is_not_asked_without_pause(fake, hub):
    fake.tell(
        lambda request: (
            fake.answer({"code": 410, "message": "old"}, status=410)
            if "watch=1" in request.query
            else fake.answer(listing("a"))
        )
    )
    sink, link = Sink(), Link()
    waits = []

    async def wait_restored(timeout_s):
        waits.append(timeout_s)
        await asyncio.sleep(0)

    link.wait_restored = wait_restored
    work = asyncio.ensure_future(
        follow(hub, "/l", {}, sink=sink, link=link, jitter=lambda: 1.0, max_wait_s=60)
    )
    await sink.until(lambda seen: len(seen) >= 6)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    assert len(waits) >= 4  # the first is free
    assert waits[:4] == sorted(waits[:4])
    assert waits[3] >= 2


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({}, id="each watch ends at once"),
        pytest.param({"_SHORT_S": 0.0, "_UNHEARD_S": 0.0}, id="watches say nothing"),
    ],
)
async def test_a_server_whose_watches_bring_nothing_is_listed_again(
    fake, followed, monkeypatch, limits
):
    for name, value in limits.items():
        monkeypatch.setattr(f"linnet_agent.sync.{name}", value)
    fake.tell(
        fake.answer(listing("a")),
        fake.answer([]),
        fake.answer(listing("b")),
        fake.answer([], hangs=True),
    )

    sink, _ = followed()
    await sink.until(told(("all", ["b"])))

    assert [r.query.count("watch=1") for r in fake.requests[:3]] == [0, 1, 0]


async def test_a_lost_link_ends_a_watch_that_says_nothing(fake, followed):
    fake.tell(
        fake.answer(listing("a")),
        fake.answer([], hangs=True),
        fake.answer(listing("b")),
        fake.answer([], hangs=True),
    )
    sink, link = followed()
    await sink.until(told(("all", ["a"])))
    await fake.until(lambda: fake.seen(watch=True))

    link.mark(up=False)
    await sink.until(told(("all", ["b"])))


async def test_trouble_is_told_once_an_outage(fake, followed, caplog):
    caplog.set_level("INFO", "linnet_agent.sync")
    fake.tell(fake.answer({"message": "no"}, status=403))

    followed()
    await fake.until(lambda: len(fake.requests) >= 5)

    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "sync.broken"
    ]
