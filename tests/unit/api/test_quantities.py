import pytest

from linnet_api.quantities import parse_quantity


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("17", 17, id="bytes"),
        pytest.param("512Mi", 512 << 20, id="powers of 1024"),
        pytest.param("2G", 2 * 10**9, id="powers of 1000"),
        pytest.param("1.5Gi", 3 << 29, id="a fraction"),
        pytest.param("0.001", 1, id="a fraction of a byte rounds up"),
    ],
)
def test_a_quantity_is_a_number_with_a_unit(text, size):
    assert parse_quantity(text) == size


@pytest.mark.parametrize("text", ["", "Mi", "-1", "1e3", "512 Mi", "1Pi", "512mi"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="512Mi or 2Gi"):
        parse_quantity(text)
