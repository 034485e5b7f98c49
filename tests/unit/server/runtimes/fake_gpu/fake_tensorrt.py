"""`tensorrt`, without a GPU: an engine is the ONNX file and its profile, ONNX Runtime runs it.

It has the calls of TensorRT 10 and 11 that the server makes, under their names, with their ways to
fail: None for an engine that cannot be read or built, False for a shape out of the profile.
"""

import ctypes
import enum
import json

import numpy as np

from linnet_server import ort

__version__ = "10.3.0"

_TYPES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "HALF",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(bool)": "BOOL",
    "tensor(double)": "DOUBLE",
}


class DataType(enum.Enum):
    FLOAT, HALF, INT32, INT64, BOOL, DOUBLE = range(6)


_NUMPY = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
}


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Tensor:
    def __init__(self, arg):
        self.name = arg.name
        self.shape = [dim if isinstance(dim, int) else -1 for dim in arg.shape]
        self.dtype = DataType[_TYPES[arg.type]]


class Model:
    def __init__(self, raw):
        self.session = ort.InferenceSession(raw, providers=["CPUExecutionProvider"])
        self.inputs = [Tensor(arg) for arg in self.session.get_inputs()]
        self.outputs = [Tensor(arg) for arg in self.session.get_outputs()]


class Network:
    raw = None
    num_inputs = 0

    def read(self, raw):
        self.model = Model(raw)
        self.raw = raw
        self.num_inputs = len(self.model.inputs)

    def get_input(self, index):
        return self.model.inputs[index]


class ParserError:
    def __init__(self, text):
        self.text = text

    def desc(self):
        return self.text


class OnnxParser:
    def __init__(self, network, logger):
        assert isinstance(logger, ILogger)
        self.network, self.errors = network, []

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return self.errors[index]

    def parse_from_file(self, path):
        with open(path, "rb") as file:  # noqa: PTH123 - as the real one: a string
            raw = file.read()
        try:
            self.network.read(raw)
        except Exception as error:  # noqa: BLE001 - as the real one: it says no
            self.errors.append(ParserError(f"ModelImporter: {error}"))
            return False
        return True


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):  # noqa: A002 - the real names
        assert all(isinstance(shape, tuple) for shape in (min, opt, max))
        self.shapes[input] = min, opt, max


class TimingCache:
    def __init__(self, blob):
        self.blob = blob

    def serialize(self):
        return bytearray(self.blob or b"measured")


class Config:
    builder_optimization_level = 3

    def __init__(self):
        self.profiles = []

    def set_memory_pool_limit(self, pool, pool_size):
        assert pool is MemoryPoolType.WORKSPACE
        assert pool_size > 0

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        good = serialized_timing_cache in (b"", b"measured")
        return TimingCache(serialized_timing_cache) if good else None

    def set_timing_cache(self, cache, ignore_mismatch):
        assert isinstance(cache, TimingCache)
        assert ignore_mismatch is False
        self.timing = cache
        return True

    def get_timing_cache(self):
        return self.timing


class Builder:
    def __init__(self, logger):
        assert isinstance(logger, ILogger)
        self.logger = logger

    def create_network(self, flags=0):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        shapes = config.profiles[0].shapes if config.profiles else {}
        if any(-1 in tensor.shape and tensor.name not in shapes for tensor in network.model.inputs):
            self.logger.log(ILogger.Severity.ERROR, "dynamic input, no profile")
            return None
        header = json.dumps({"engine": __version__, "profile": shapes}).encode()
        return bytearray(header + b"\n" + network.raw)


class Engine:
    def __init__(self, model, profile):
        self.model, self.profile = model, profile
        self.tensors = {tensor.name: tensor for tensor in (*model.inputs, *model.outputs)}

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        inputs = {tensor.name for tensor in self.model.inputs}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self.tensors[name].dtype

    def get_tensor_shape(self, name):
        return self.tensors[name].shape

    def is_shape_inference_io(self, name):
        assert name in self.tensors
        return False

    def get_tensor_profile_shape(self, name, profile_index):
        assert profile_index == 0
        return self.profile[name]

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses = engine, {}, {}

    def set_input_shape(self, name, shape):
        assert isinstance(shape, tuple)
        low, _, high = self.engine.profile.get(name, (shape, shape, shape))
        if not all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True)):
            return False
        self.shapes[name] = shape
        return True

    def infer_shapes(self):
        missing = [t.name for t in self.engine.model.inputs if t.name not in self.shapes]
        if not missing:
            zeros = {
                tensor.name: np.zeros(self.shapes[tensor.name], _NUMPY[tensor.dtype])
                for tensor in self.engine.model.inputs
            }
            answers = self.engine.model.session.run(None, zeros)
            for tensor, answer in zip(self.engine.model.outputs, answers, strict=True):
                self.shapes[tensor.name] = answer.shape
        return missing

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def set_tensor_address(self, name, memory):
        assert isinstance(memory, int)
        self.addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle):
        assert isinstance(stream_handle, int)
        feeds = {}
        for tensor in self.engine.model.inputs:
            dtype = np.dtype(_NUMPY[tensor.dtype])
            shape = self.shapes[tensor.name]
            raw = ctypes.string_at(
                self.addresses[tensor.name], int(np.prod(shape)) * dtype.itemsize
            )
            feeds[tensor.name] = np.frombuffer(raw, dtype).reshape(shape)
        answers = self.engine.model.session.run(None, feeds)
        for tensor, answer in zip(self.engine.model.outputs, answers, strict=True):
            ctypes.memmove(self.addresses[tensor.name], answer.tobytes(), answer.nbytes)
        return True


class Runtime:
    def __init__(self, logger):
        assert isinstance(logger, ILogger)
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        header, _, raw = bytes(serialized_engine).partition(b"\n")
        try:
            facts = json.loads(header)
        except ValueError:
            self.logger.log(ILogger.Severity.ERROR, "magicTag does not match")
            return None
        if facts["engine"] != __version__:
            self.logger.log(ILogger.Severity.ERROR, "Version tag does not match")
            return None
        return Engine(Model(raw), facts["profile"])
