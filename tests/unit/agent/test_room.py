"""What goes to make room, and what is said where that is not enough."""

from hypothesis import given
from hypothesis import strategies as st

from linnet_agent.room import Lot, choose_evictions, say_no_room

lots = st.lists(
    st.builds(
        Lot,
        name=st.uuids().map(str),
        size_bytes=st.integers(0, 1000),
        used_at=st.floats(0, 1000),
        pinned=st.booleans(),
    ),
    max_size=12,
)


def lot(name, size_bytes, *, used_at=0.0, pinned=False):
    return Lot(name, size_bytes, used_at, pinned)


def test_nothing_goes_where_there_is_room():
    assert choose_evictions([lot("a", 10)], needed_bytes=5, free_bytes=5) == ()


def test_the_oldest_goes_first_and_no_more_than_is_needed():
    there = [lot("new", 10, used_at=3.0), lot("old", 10, used_at=1.0), lot("mid", 10, used_at=2.0)]

    chosen = choose_evictions(there, needed_bytes=15, free_bytes=0)

    assert [one.name for one in chosen] == ["old", "mid"]


def test_nothing_goes_where_all_of_it_would_not_be_enough():
    assert choose_evictions([lot("a", 10)], needed_bytes=11, free_bytes=0) == ()


@given(lots, st.integers(0, 5000), st.integers(0, 5000))
def test_what_is_pinned_stays_and_what_goes_is_enough(there, needed, free):
    chosen = choose_evictions(there, needed_bytes=needed, free_bytes=free)

    assert not any(one.pinned for one in chosen)
    assert not chosen or free + sum(one.size_bytes for one in chosen) >= needed
    assert not chosen or free + sum(one.size_bytes for one in chosen[:-1]) < needed


def test_the_sentence_names_the_bytes():
    said = say_no_room([lot("a", 700, pinned=True), lot("b", 20)], needed_bytes=500, free_bytes=100)

    assert said.startswith("500 bytes are needed and 100 are free; 700 are taken by ")
