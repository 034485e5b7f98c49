# ruff: noqa: N801, N802, N815 - CUDA names things its own way
"""`cuda.bindings.runtime`, without a GPU: device memory is memory of this process.

As the real one (CUDA 12 and 13): every call returns a tuple with its error first, names are bytes,
a stream is an object that is also a number. Copies are checked: one side is device memory.
"""

import ctypes
import enum
import itertools


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Properties:
    name = b"Fake Orin"


class Stream:
    numbers = itertools.count(4096)

    def __init__(self):
        self.number = next(Stream.numbers)

    def __int__(self):
        return self.number


OK = cudaError_t.cudaSuccess
blocks = {}
streams = set()


def cudaGetErrorString(error):
    return OK, {2: b"out of memory", 100: b"no CUDA-capable device is detected"}[int(error)]


def cudaGetDeviceCount():
    return OK, 1


def cudaDeviceGetAttribute(attribute, device):
    assert device == 0
    return OK, {75: 8, 76: 7}[attribute]


def cudaGetDeviceProperties(device):
    assert device == 0
    return OK, Properties()


def cudaDriverGetVersion():
    return OK, 12060


def cudaRuntimeGetVersion():
    return OK, 12060


def cudaMalloc(size):
    assert size > 0
    if size > 1 << 30:
        return cudaError_t.cudaErrorMemoryAllocation, None
    block = ctypes.create_string_buffer(size)
    blocks[ctypes.addressof(block)] = block
    return OK, ctypes.addressof(block)


def cudaFree(address):
    del blocks[address]
    return (OK,)


def cudaStreamCreate():
    stream = Stream()
    streams.add(stream)
    return OK, stream


def cudaStreamDestroy(stream):
    streams.remove(stream)
    return (OK,)


def cudaStreamSynchronize(stream):
    assert stream in streams
    return (OK,)


def cudaMemcpyAsync(to, source, size, kind, stream):
    assert stream in streams
    device = to if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else source
    if device not in blocks or size > len(blocks[device]):
        return (cudaError_t.cudaErrorInvalidValue,)
    ctypes.memmove(to, source, size)
    return (OK,)
