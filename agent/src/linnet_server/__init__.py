"""The data plane of a node: Open Inference Protocol v2 over ONNX Runtime, driven by the agent."""
