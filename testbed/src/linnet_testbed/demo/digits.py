"""The demo's models: classifiers for handwritten digits, trained here on scikit-learn's own data.

- Nothing is downloaded; the same seed gives the same weights.
- Every model answers with ``label`` (int64, shape (batch,)) and ``scores`` (float32, shape
  (batch, 10)).
- A golden sample is the model's own answer: it proves that a node runs it right, not that it
  is good. So the worse model passes every self-test, as it would in life.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

Pixels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_TRAIN_COUNT: Final = 900
_OPSET: Final = 17
_MIXED_UP: Final = {3: 8, 8: 3, 4: 9, 9: 4, 1: 7, 7: 1}
"""The pairs of labels that somebody mixed up before ``2.0`` was trained."""

_BRIGHT: Final = 345.0
"""Sum of the pixels (0 to 16 each) above which ``2.1`` fails; one image in six is brighter."""


@dataclass(frozen=True, slots=True)
class Digits:
    """The data: 64 pixels (float32, 0 to 16) and the true label of each image."""

    train_pixels: Pixels
    train_labels: Labels
    live_pixels: Pixels
    live_labels: Labels


def load() -> Digits:
    """Return the data, split into what the publisher trains on and what the nodes see."""
    bunch = load_digits()
    order = np.random.default_rng(11).permutation(len(bunch.target))
    pixels = bunch.data.astype(np.float32)[order]
    labels = bunch.target.astype(np.int64)[order]
    return Digits(
        pixels[:_TRAIN_COUNT], labels[:_TRAIN_COUNT], pixels[_TRAIN_COUNT:], labels[_TRAIN_COUNT:]
    )


def build(version: str, directory: Path, *, digits: Digits) -> float:
    """Train ``version`` and write ``model.onnx`` and ``golden.json`` into ``directory``.

    Returns:
        The share of live images that it labels rightly, 0 to 1, as onnxruntime answers; images on
        which it fails count as wrong.

    Raises:
        KeyError: There is no such version in the demo.
    """
    directory.mkdir(parents=True, exist_ok=True)
    layers = _train(version, digits)
    model = _graph(layers, fails_when_bright=version == "2.1")
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    dim = digits.train_pixels[digits.train_pixels.sum(axis=1) <= _BRIGHT][:4]
    labels, scores = session.run(None, {"pixels": dim})
    golden = {
        "inputs": {"pixels": _tensor(dim, "FP32")},
        "outputs": {"label": _tensor(labels, "INT64"), "scores": _tensor(scores, "FP32")},
        "tolerance": 1e-3,
    }
    (directory / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    usable = (
        digits.live_pixels.sum(axis=1) <= _BRIGHT
        if version == "2.1"
        else np.ones(len(digits.live_labels), dtype=bool)
    )
    found = session.run(["label"], {"pixels": digits.live_pixels[usable]})[0]
    return float(np.sum(found == digits.live_labels[usable]) / len(digits.live_labels))


def _train(version: str, digits: Digits) -> list[tuple[Pixels, Pixels]]:
    """Return the layers (weights, bias): one for a linear model, two for a network."""
    pixels, labels = digits.train_pixels / 16, digits.train_labels
    if version == "1.0":
        linear = LogisticRegression(max_iter=500, C=0.1).fit(pixels[:150], labels[:150])
        return [(linear.coef_.T.astype(np.float32), linear.intercept_.astype(np.float32))]
    if version == "2.0":
        labels = np.array([_MIXED_UP.get(int(label), int(label)) for label in labels])
    seeds = {
        "1.1": 1,
        "1.2": 2,
        "1.3": 3,
        "2.0": 4,
        "2.1": 1,
        "2.2": 5,
        "2.3": 6,
        "2.4": 7,
        "2.5": 8,
        "2.6": 9,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network = MLPClassifier((48,), max_iter=150, random_state=seeds[version]).fit(
            pixels, labels
        )
    return [
        (weights.astype(np.float32), bias.astype(np.float32))
        for weights, bias in zip(network.coefs_, network.intercepts_, strict=True)
    ]


def _graph(layers: list[tuple[Pixels, Pixels]], *, fails_when_bright: bool) -> onnx.ModelProto:
    nodes = [helper.make_node("Div", ["pixels", "sixteen"], ["x0"])]
    constants = [numpy_helper.from_array(np.float32(16.0), "sixteen")]
    last = "x0"
    for number, (weights, bias) in enumerate(layers):
        constants += [
            numpy_helper.from_array(weights, f"w{number}"),
            numpy_helper.from_array(bias, f"b{number}"),
        ]
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [f"y{number}"]))
        last = f"y{number}"
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"h{number}"]))
            last = f"h{number}"
    if fails_when_bright:
        last = _fail_when_bright(nodes, constants, last)
    nodes += [
        helper.make_node("Softmax", [last], ["scores"], axis=1),
        helper.make_node("ArgMax", [last], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def _fail_when_bright(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], last: str
) -> str:
    """Add a look-up that runs off its table for bright images, as a bad calibration table would."""
    constants += [
        numpy_helper.from_array(np.float32(_BRIGHT), "brightest"),
        numpy_helper.from_array(np.ones((1,), dtype=np.float32), "table"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"),
    ]
    nodes += [
        helper.make_node("ReduceSum", ["pixels", "axis"], ["light"], keepdims=1),
        helper.make_node("Greater", ["light", "brightest"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["gain"]),
        helper.make_node("Mul", [last, "gain"], ["gained"]),
    ]
    return "gained"


def _tensor(values: npt.NDArray[Any], datatype: str) -> dict[str, Any]:
    return {"datatype": datatype, "shape": list(values.shape), "data": values.ravel().tolist()}
