"""The queue on disk: kept, in order, bounded; torn, full and read-only disks."""

import contextlib
import errno
import os
import resource
import signal
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet_agent.results import ResultQueue

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def queue(directory, **more):
    made = ResultQueue(directory / "results", **more)
    made.load()
    return made


def add(made, *numbers):
    for number in numbers:
        made.append({"n": number}, at=NOON + timedelta(seconds=number))


def numbers(made, *, now=NOON):
    return [result.content["n"] for result in made.pending(now=now)]


def files(directory):
    return sorted((directory / "results").glob("*"))


def test_what_waits_is_there_after_a_restart_in_order(tmp_path):
    add(queue(tmp_path), 1, 2, 3)
    add(queue(tmp_path), 4)

    again = queue(tmp_path)

    assert numbers(again) == [1, 2, 3, 4]
    assert again.dropped == 0


def test_a_record_is_known_by_the_same_id_after_a_restart(tmp_path):
    first = queue(tmp_path)
    add(first, 1, 2)

    again = queue(tmp_path).pending(now=NOON)

    assert [result.id for result in again] == [result.id for result in first.pending(now=NOON)]
    assert again[0].id != again[1].id


def test_rule_11_what_is_done_leaves_nothing_behind(tmp_path):
    made = queue(tmp_path)
    add(made, 1, 2)

    for result in made.pending(now=NOON):
        made.done(result)

    assert numbers(made) == []
    assert files(tmp_path) == []
    add(made, 3)
    assert numbers(queue(tmp_path)) == [3]


def test_what_was_done_but_not_its_segment_comes_again(tmp_path):
    made = queue(tmp_path)
    add(made, 1, 2)
    made.done(made.pending(now=NOON)[0])

    assert numbers(made) == [2]
    assert numbers(queue(tmp_path)) == [1, 2]


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(1, 200))
def test_a_torn_tail_is_dropped_and_nothing_is_written_behind_it(tmp_path_factory, cut):
    directory = tmp_path_factory.mktemp("torn")
    add(queue(directory), 1, 2, 3)
    path = files(directory)[0]
    size = path.stat().st_size
    os.truncate(path, max(0, size - cut))

    again = queue(directory)
    left = numbers(again)
    add(again, 9)

    assert left == [1, 2, 3][: len(left)]
    assert numbers(queue(directory)) == [*left, 9]


def test_a_flipped_bit_costs_one_record(tmp_path):
    add(queue(tmp_path), 1, 2, 3)
    path = files(tmp_path)[0]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)

    again = queue(tmp_path)

    assert numbers(again) == [1, 3]
    assert again.dropped == 1


@pytest.mark.parametrize("junk", [b"", b"\n\n", b"\0" * 100, b"00000000 {}\n", b"zz {}\n"])
def test_a_file_that_is_junk_is_removed(tmp_path, junk):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "000000000007.results").write_bytes(junk)

    made = queue(tmp_path)

    assert numbers(made) == []
    assert files(tmp_path) == []
    add(made, 1)
    assert files(tmp_path)[0].name == "000000000008.results"


def test_it_is_bounded_in_bytes_and_the_oldest_go_first(tmp_path):
    made = queue(tmp_path, max_bytes=2_000, segment_bytes=500)

    add(made, *range(100))

    left = numbers(made)
    assert left == list(range(left[0], 100))
    assert made.dropped == 100 - len(left)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2_000
    assert numbers(queue(tmp_path)) == left


def test_what_is_too_old_goes_and_a_clock_that_went_back_drops_nothing(tmp_path):
    made = queue(tmp_path, segment_bytes=1)
    add(made, 1, 2)

    assert numbers(made, now=datetime(1970, 1, 1, tzinfo=UTC)) == [1, 2]
    assert numbers(made, now=NOON + timedelta(days=90, seconds=1.5)) == [2]
    assert made.dropped == 1


def test_a_record_that_is_too_large_is_dropped(tmp_path):
    made = queue(tmp_path)

    made.append({"n": "x" * 20_000}, at=NOON)

    assert (numbers(made), made.dropped) == ([], 1)


@contextlib.contextmanager
def small_files(size_bytes):
    """A disk that takes so many bytes of a file and no more, for real.

    Not a fixture: pytest writes its report before a fixture ends, perhaps into a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_is_cut_short_leaves_no_half_record(tmp_path):
    made = queue(tmp_path)
    add(made, 1)
    with small_files(files(tmp_path)[0].stat().st_size + 10):
        add(made, 2)

    assert numbers(made) == [1, 2]
    again = queue(tmp_path)
    assert again.dropped == 0
    assert numbers(again) == [1] or numbers(again) == [1, 2]


def test_a_disk_that_takes_nothing_keeps_what_is_new_in_memory(tmp_path):
    made = queue(tmp_path)
    with small_files(0):
        add(made, 1, 2)
        assert numbers(made) == [1, 2]
        assert files(tmp_path) == []
        made.done(made.pending(now=NOON)[0])

    assert numbers(made) == [2]


def test_a_full_disk_drops_the_oldest_for_the_newest(tmp_path, monkeypatch):
    made = queue(tmp_path, segment_bytes=1)
    add(made, 1, 2, 3)
    real = os.write

    def write(descriptor, data):
        if len(files(tmp_path)) > 2:
            raise OSError(errno.ENOSPC, "full")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    add(made, 4)

    assert numbers(made) == [3, 4]
    assert made.dropped == 2


def test_memory_is_bounded_too(tmp_path):
    made = queue(tmp_path, max_bytes=64 << 10)

    with small_files(0):
        add(made, *range(10))

    assert numbers(made) == [6, 7, 8, 9]
    assert made.dropped == 6


def test_a_directory_that_cannot_be_made_keeps_what_is_new_in_memory(tmp_path):
    (tmp_path / "results").write_text("no directory")
    made = queue(tmp_path)

    add(made, 1)

    assert numbers(made) == [1]
