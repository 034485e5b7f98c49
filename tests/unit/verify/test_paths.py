import pytest

from linnet_agent.verify.paths import MAX_FILES, names_fault


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["model.onnx"], id="a file"),
        pytest.param(["a/b/c.bin", "a/b/d.bin", "a/e"], id="a tree"),
        pytest.param([".gitattributes", "...", "a b", "ä.onnx"], id="odd but harmless names"),
    ],
)
def test_names_that_may_be(names):
    assert names_fault(names) is None


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([], id="no file at all"),
        pytest.param([""], id="an empty name"),
        pytest.param(["/etc/passwd"], id="absolute"),
        pytest.param(["../x"], id="parent at the start"),
        pytest.param(["a/../../x"], id="parent inside"),
        pytest.param(["./x"], id="dot at the start"),
        pytest.param(["a/./x"], id="dot inside"),
        pytest.param(["a//x"], id="an empty part"),
        pytest.param(["a/"], id="a slash at the end"),
        pytest.param(["a\\..\\x"], id="a backslash"),
        pytest.param(["a\0b"], id="NUL"),
        pytest.param(["a\nb"], id="a control character"),
        pytest.param(["\ud800"], id="a lone surrogate"),
        pytest.param(["x" * 256], id="a part that is too long"),
        pytest.param(["/".join(["x" * 200] * 6)], id="a name that is too long"),
        pytest.param(["Model.onnx", "model.onnx"], id="equal but for case"),
        pytest.param(["stra\u00dfe", "STRASSE"], id="equal after case folding"),
        pytest.param(["\u00e9", "e\u0301"], id="equal after NFC"),
        pytest.param(["a", "a/b"], id="a file that is also a directory"),
        pytest.param(["A", "a/b"], id="a file that is also a directory, but for case"),
        pytest.param(["model.onnx", "model.onnx"], id="twice the same"),
    ],
)
def test_names_that_are_refused(names):
    assert names_fault(names) is not None


def test_the_number_of_files_is_bounded():
    assert names_fault(str(n) for n in range(MAX_FILES)) is None
    assert names_fault(str(n) for n in range(MAX_FILES + 1)) is not None
