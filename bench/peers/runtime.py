"""What all peers run: one ONNX Runtime session with the settings of linnet-server."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
