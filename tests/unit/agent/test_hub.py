"""Answers that no honest API server gives, and what an agent makes of them."""

import contextlib
import gzip
import json
import os
import resource
from datetime import UTC, datetime

import pytest

from linnet_agent.errors import HubRefusedError, HubUnavailableError
from linnet_agent.hub import Hub, TokenFile, WatchExpiredError


def named(name="a", version="7", **more):
    return {"metadata": {"name": name, "resourceVersion": version}} | more


def event(kind, body):
    return {"type": kind, "object": body}


async def changes(hub, version="1"):
    return [change async for change in hub.watch("/w", {}, version=version)]


# --- one answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b'{"a": 1, "a": 2}', id="a key twice"),
        pytest.param(b'{"a":' * 5_000 + b"1" + b"}" * 5_000, id="too deep"),
        pytest.param(b'{"a":' * 500_000, id="deeper than any stack"),
        pytest.param(b'{"a": NaN}', id="no number"),
        pytest.param(gzip.compress(b"{}"), id="packed, which nobody asked for"),
    ],
)
async def test_an_answer_that_is_no_object_is_as_none(fake, hub, body):
    fake.tell(fake.answer(body))

    with pytest.raises(HubUnavailableError, match="no object"):
        await hub.get("/x")


async def test_an_answer_without_end_is_given_up(fake, hub):
    fake.tell(fake.answer(b"{" + b" " * (5 << 20), hangs=True))

    with pytest.raises(HubUnavailableError, match="larger than"):
        await hub.get("/x")


async def test_a_connection_that_breaks_is_transient(fake, hub):
    fake.tell(lambda _: None)

    with pytest.raises(HubUnavailableError, match="does not answer"):
        await hub.get("/x")


@pytest.mark.parametrize("status", [408, 410, 425, 429, 500, 502, 503, 504])
async def test_a_server_that_cannot_now_is_transient(fake, hub, status):
    fake.tell(fake.answer({"message": "later"}, status=status))

    with pytest.raises(HubUnavailableError, match="later"):
        await hub.get("/x")


@pytest.mark.parametrize("status", [301, 400, 403, 404, 409, 422])
async def test_what_is_refused_says_so_and_is_not_followed_elsewhere(fake, hub, status):
    fake.tell(fake.answer({"message": "no"}, status=status, headers={"Location": "http://else"}))

    with pytest.raises(HubRefusedError, match="no") as caught:
        await hub.get("/x")
    assert caught.value.status == status
    assert len(fake.requests) == 1


async def test_what_time_it_is_there_is_known(fake, hub):
    assert hub.date is None
    fake.tell(fake.answer(headers={"Date": "Sat, 21 Nov 2026 12:05:00 GMT"}))

    await hub.get("/x")
    assert hub.date == datetime(2026, 11, 21, 12, 5, tzinfo=UTC)

    fake.tell(fake.answer(headers={"Date": "the day before yesterday"}))
    await hub.get("/x")
    assert hub.date == datetime(2026, 11, 21, 12, 5, tzinfo=UTC)


async def test_without_a_descriptor_to_be_had_the_hub_is_away_not_the_agent_broken(fake, hub):
    fake.tell(fake.answer(headers={"Connection": "close"}, length=False))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(HubUnavailableError):
            await hub.get("/x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in (spare, *taken):
            os.close(descriptor)

    assert await hub.get("/x") == {}


# --- the token


async def test_a_token_that_is_no_longer_known_is_read_again_once(fake, hub, tmp_path):
    def answer(request):
        known = request.headers["authorization"] == "Bearer second"
        return fake.answer({"known": True}) if known else fake.answer({}, status=401)

    fake.tell(answer)
    stat = (tmp_path / "token").stat()
    with pytest.raises(HubRefusedError):
        await hub.get("/x")
    assert len(fake.requests) == 1  # nothing new to try

    (tmp_path / "token").write_text("second")  # renewed in the same tick of the file's clock
    os.utime(tmp_path / "token", ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert await hub.get("/x") == {"known": True}


def test_a_token_file_that_is_gone_or_broken_leaves_the_token_before(tmp_path):
    path = tmp_path / "token"
    path.write_text("good\n")
    token = TokenFile(path)
    assert token.read() == "good"

    path.write_bytes(b"\xff\xfe")
    assert token.read() == "good"
    path.unlink()
    token.forget()
    assert token.read() == "good"


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.e30.c", "a.bm90IGpzb24.c", "a.W10.c"])
def test_a_token_that_says_no_node_says_none(tmp_path, text):
    (tmp_path / "token").write_text(text)

    assert TokenFile(tmp_path / "token").node_uid() is None


# --- lists


async def test_a_list_is_read_page_by_page(fake, hub):
    fake.tell(
        fake.answer({"items": [named("a")], "metadata": {"continue": "c1"}}),
        fake.answer({"items": [named("b")], "metadata": {"resourceVersion": "9"}}),
    )

    listing = await hub.list("/l", {})

    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b"]
    assert listing.version == "9"
    assert "continue=c1" in fake.requests[1].query


async def test_a_list_without_end_is_given_up(fake, hub):
    fake.tell(fake.answer({"items": [], "metadata": {"continue": "again"}}))

    with pytest.raises(HubUnavailableError, match="pages"):
        await hub.list("/l", {})


async def test_a_list_that_is_too_large_is_given_up(fake, hub):
    fake.tell(fake.answer(b" " * (33 << 20)))

    with pytest.raises(HubUnavailableError, match="larger than"):
        await hub.list("/l", {})


async def test_a_list_that_took_too_long_to_page_is_made_again_not_refused(fake, hub):
    fake.tell(
        fake.answer({"items": [], "metadata": {"continue": "old"}}),
        fake.answer({"message": "expired", "code": 410}, status=410),
    )

    with pytest.raises(HubUnavailableError, match="expired"):
        await hub.list("/l", {})


async def test_what_has_no_name_is_left_out_of_a_list(fake, hub):
    odd = [1, None, {}, {"metadata": 1}, {"metadata": {"name": ""}}, {"metadata": {"name": 1}}]
    odd.append({"metadata": {"name": "a", "namespace": 1}})
    fake.tell(fake.answer({"items": [*odd, named("b")]}))

    assert [item["metadata"]["name"] for item in (await hub.list("/l", {})).items] == ["b"]


async def test_a_list_of_something_else_is_as_none(fake, hub):
    fake.tell(fake.answer({"items": {"a": 1}}))

    with pytest.raises(HubUnavailableError, match="no items"):
        await hub.list("/l", {})


# --- watches


async def test_changes_come_with_their_version_and_bookmarks_keep_the_place(fake, hub):
    fake.tell(
        fake.answer(
            [
                event("ADDED", named("a", "2")),
                event("BOOKMARK", {"metadata": {"resourceVersion": "5"}}),
                event("DELETED", named("a", "6")),
            ]
        )
    )

    got = await changes(hub)

    assert [(c.kind, c.version) for c in got] == [
        ("ADDED", "2"),
        ("BOOKMARK", "5"),
        ("DELETED", "6"),
    ]
    assert "allowWatchBookmarks=true" in fake.requests[0].query


async def test_a_watch_that_is_silent_for_too_long_has_ended(fake):
    hub = Hub(fake.url, token_file=None, ca_file=None, silence_s=0.05)
    fake.tell(fake.answer([event("ADDED", named("a", "2"))], hangs=True))

    assert [c.version for c in await changes(hub)] == ["2"]
    await hub.aclose()


async def test_a_line_without_end_is_given_up(fake, hub):
    fake.tell(fake.answer(b"{" + b" " * (5 << 20), hangs=True))

    with pytest.raises(HubUnavailableError, match="event is larger"):
        await changes(hub)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"type": "ADDED"}',
        b'{"type": "ADDED", "object": 1}',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "1"}}}',
        b'{"type": "ADDED", "object": {"metadata": {"name": "a"}}}',
        b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": 1}}}',
        b'{"type": "ADDED", "type": "DELETED", "object": {}}',
        b'{"type": "ERROR", "object": {"code": 500, "message": "no"}}',
        json.dumps({"type": "ADDED", "object": {"a": [[[0]]]}}).encode() * 2,
    ],
)
async def test_a_line_that_is_no_event_ends_the_watch(fake, hub, line):
    fake.tell(fake.answer(line + b"\n"))

    with pytest.raises(HubUnavailableError):
        await changes(hub)


@pytest.mark.parametrize("in_stream", [True, False])
async def test_a_version_that_is_too_old_is_told_apart(fake, hub, in_stream):
    gone = {"code": 410, "message": "too old"}
    answer = fake.answer([event("ERROR", gone)]) if in_stream else fake.answer(gone, status=410)
    fake.tell(answer)

    with pytest.raises(WatchExpiredError, match="too old"):
        await changes(hub)


async def test_a_watch_with_a_token_that_is_not_known_reads_it_again_next_time(fake, hub, tmp_path):
    stat = (tmp_path / "token").stat()
    fake.tell(fake.answer({}, status=401))
    with pytest.raises(HubRefusedError):
        await changes(hub)
    (tmp_path / "token").write_text("third")
    os.utime(tmp_path / "token", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fake.tell(fake.answer([]))

    await changes(hub)

    assert fake.requests[-1].headers["authorization"] == "Bearer third"
