import json

import numpy as np
import pytest

from linnet_agent.errors import SelfTestFailedError
from linnet_agent.golden import MAX_BYTES, Tolerance, check_outputs, fingerprint, read_golden


def tensor(data, *, datatype="FP32", shape=None, **more):
    return {"datatype": datatype, "shape": shape or [len(data)], "data": data} | more


def document(output, **more):
    return {"inputs": {"x": tensor([1, 2])}, "outputs": {"y": output}} | more


def golden(output, **more):
    return read_golden(json.dumps(document(output, **more)).encode())


def is_right(sample, got):
    try:
        check_outputs(sample, {"y": np.asarray(got)})
    except SelfTestFailedError:
        return False
    return True


def f4(*values):
    return np.array(values, "f4")


def test_a_sample_is_read_with_its_types_and_shapes():
    sample = golden(tensor([[1, 2], [3, 4]], datatype="INT64", shape=[2, 2]))

    assert sample.inputs["x"].dtype == np.float32
    assert sample.outputs["y"].tolist() == [[1, 2], [3, 4]]
    assert sample.outputs["y"].dtype == np.int64
    assert sample.tolerances["y"] == Tolerance(1e-3, 1e-3)
    assert sample.deterministic


@pytest.mark.parametrize(
    ("tolerance", "want", "right", "wrong"),
    [
        pytest.param(0.5, 0.0, 0.5, 0.51, id="absolute near zero"),
        pytest.param({"relative": 0.1}, 100.0, 110.0, 110.1, id="relative far from zero"),
        pytest.param({"absolute": 1, "relative": 0.1}, 100.0, 111.0, 111.1, id="both add up"),
        pytest.param(0, 1.0, 1.0, 1.0001, id="none"),
        pytest.param({"absolute": 2}, -100.0, -102.0, -102.1, id="one that is not named is none"),
    ],
)
def test_a_value_is_right_within_its_tolerance(tolerance, want, right, wrong):
    sample = golden(tensor([want]), tolerance=tolerance)

    assert is_right(sample, f4(right))
    assert not is_right(sample, f4(wrong))


def test_an_output_may_have_a_tolerance_of_its_own():
    sample = golden(tensor([1.0], tolerance=10), tolerance=0)

    assert is_right(sample, f4(9))


def test_one_wrong_value_of_many_is_found_and_told():
    sample = golden(tensor([1.0, 2.0, 3.0]))

    with pytest.raises(
        SelfTestFailedError, match=r"'y' is off its golden value by 0\.5 where 0\.00"
    ):
        check_outputs(sample, {"y": f4(1, 2.5, 3)})


@pytest.mark.parametrize(
    ("got", "right"),
    [
        pytest.param([0, np.nan, np.inf, -np.inf], True, id="as it shall be"),
        pytest.param([0, 1, np.inf, -np.inf], False, id="finite where it is not"),
        pytest.param([np.nan, np.nan, np.inf, -np.inf], False, id="NaN where it is finite"),
        pytest.param([0, np.nan, -np.inf, -np.inf], False, id="the other infinity"),
        pytest.param([0, np.inf, np.inf, -np.inf], False, id="infinite where it is NaN"),
    ],
)
def test_what_is_not_finite_is_so_where_the_sample_says_and_nowhere_else(got, right):
    sample = golden(tensor([0, "NaN", "Infinity", "-Infinity"]), tolerance=1e9)

    assert is_right(sample, f4(*got)) is right


@pytest.mark.parametrize(
    "got",
    [
        pytest.param(np.array([1, 2], "f8"), id="another type"),
        pytest.param(np.array([[1, 2]], "f4"), id="another rank"),
        pytest.param(np.array([1], "f4"), id="another size"),
    ],
)
def test_type_and_shape_count(got):
    assert not is_right(golden(tensor([1, 2]), tolerance=1e9), got)


@pytest.mark.parametrize(
    ("datatype", "data", "got"),
    [
        ("INT64", [7, 8], np.array([7, 9])),
        ("BOOL", [True, False], np.array([True, True])),
        ("BYTES", ["cat", "dog"], np.array(["cat", "cow"], object)),
    ],
)
def test_what_is_no_float_is_exact(datatype, data, got):
    sample = golden(tensor(data, datatype=datatype), tolerance=1e9)

    assert is_right(sample, sample.outputs["y"].copy())
    assert not is_right(sample, got)


BAD = {
    "no JSON": "{",
    "no object": "[]",
    "no inputs": json.dumps({"outputs": {}}),
    "no outputs at all": json.dumps({"inputs": {}, "outputs": {}}),
    "a tensor that is a number": json.dumps({"inputs": {"x": 1}, "outputs": {"y": 1}}),
    "a type that is none": json.dumps(document(tensor([1], datatype="FP8"))),
    "a shape of another size": json.dumps(document(tensor([1], shape=[2]))),
    "a negative size": json.dumps(document(tensor([1], shape=[-1]))),
    "a shape of billions": json.dumps(document(tensor([], shape=[1 << 40]))),
    "a size that is a boolean": json.dumps(document(tensor([1], shape=[True]))),
    "a number of another type": json.dumps(document(tensor([300], datatype="UINT8"))),
    "ragged data": json.dumps(document(tensor([[1, 2], [3]], shape=[2, 2]))),
    "text as a number": json.dumps(document(tensor(["many"]))),
    "a negative tolerance": json.dumps(document(tensor([1]), tolerance=-1)),
    "a tolerance without end": json.dumps(document(tensor([1]), tolerance="Infinity")),
    "a tolerance of another name": json.dumps(document(tensor([1]), tolerance={"rtol": 1})),
    "NaN outside of a string": json.dumps(document(tensor([float("nan")]))),
    "a key twice": '{"inputs": {}, "inputs": {}, "outputs": {}}',
    "deterministic as a word": json.dumps(document(tensor([1]), deterministic="no")),
    "too deep": json.dumps(document(tensor(json.loads("[" * 60 + "]" * 60)))),
}


@pytest.mark.parametrize("raw", [pytest.param(v, id=k) for k, v in BAD.items()])
def test_what_cannot_be_read_is_refused_with_the_files_name(raw):
    with pytest.raises(SelfTestFailedError, match=r"golden\.json"):
        read_golden(raw.encode())


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(SelfTestFailedError, match=r"golden\.json"):
        read_golden(b" " * (MAX_BYTES + 1))


def test_outputs_are_the_same_only_bit_for_bit():
    assert fingerprint(f4(1, np.nan)) == fingerprint(f4(1, np.nan))
    assert fingerprint(f4(1)) != fingerprint(f4(np.nextafter(np.float32(1), np.float32(2))))
    assert fingerprint(f4(1)) != fingerprint(f4(1).reshape(1, 1))
    assert fingerprint(np.array(["a", "b"], object)) != fingerprint(np.array(["ab"], object))
