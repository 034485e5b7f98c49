"""Loads a model as linnet-server does, in a process of its own that serves nobody."""

import sys

import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
