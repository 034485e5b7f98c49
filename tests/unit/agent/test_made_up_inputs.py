import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet_agent.errors import SelfTestFailedError
from linnet_agent.made_up_inputs import (
    DTYPES,
    Declared,
    choices,
    free_dimensions,
    larger,
    make_inputs,
)

sizes = st.one_of(st.integers(1, 4), st.sampled_from(["n", "h", "w"]), st.none())
inputs = st.lists(
    st.builds(
        Declared,
        st.text("abc", min_size=1),
        st.sampled_from(sorted(DTYPES)),
        st.lists(sizes, max_size=3).map(tuple),
    ),
    max_size=3,
    unique_by=lambda declared: declared.name,
)


def image(*shape):
    return Declared("x", "tensor(float)", shape)


@settings(deadline=None)
@given(inputs)
def test_inputs_are_as_declared_whatever_is_chosen(declared):
    for choice in choices(free_dimensions(declared)):
        made = make_inputs(declared, choice)
        for value in declared:
            got = made[value.name]
            assert got.dtype == value.dtype
            assert all(
                size == want
                for size, want in zip(got.shape, value.shape, strict=True)
                if isinstance(want, int)
            )


@settings(deadline=None)
@given(inputs)
def test_the_same_name_has_the_same_size_everywhere(declared):
    for choice in choices(free_dimensions(declared)):
        made = make_inputs(declared, choice)
        found = {}
        for value in declared:
            for size, want in zip(made[value.name].shape, value.shape, strict=True):
                if isinstance(want, str):
                    assert found.setdefault(want, size) == size


def test_every_node_sees_the_same():
    declared = [image("n", 8)]
    one, other = (make_inputs(declared, {"n": 3})["x"] for _ in range(2))

    assert np.array_equal(one, other)
    assert ((one >= 0) & (one < 1)).all()
    assert len(np.unique(one)) > 8


def test_the_plainest_choice_comes_first_and_a_fixed_model_has_one():
    assert list(choices({})) == [{}]
    assert next(iter(choices({"n": True, "h": False}))) == {"n": 1, "h": 1}
    assert {"n": 1, "h": 224} in choices({"n": True, "h": False})


def test_more_samples_are_tried_where_their_count_is_free():
    free = free_dimensions([image("n", 3, "h")])

    assert free == {"n": True, "h": False}
    assert larger(free, {"n": 1, "h": 8}) == {"n": 3, "h": 8}
    assert larger(free_dimensions([image(1, "h")]), {"h": 1}) is None


def test_dimensions_without_a_name_are_each_their_own():
    assert free_dimensions([image(None, None)]) == {"x[0]": True, "x[1]": False}


def test_an_input_that_cannot_be_made_up_is_refused():
    with pytest.raises(SelfTestFailedError, match="ship golden samples"):
        make_inputs([image(1 << 20, 1 << 20)], {})
    with pytest.raises(SelfTestFailedError, match="cannot be served"):
        make_inputs([Declared("x", "seq(tensor(float))", ())], {})
