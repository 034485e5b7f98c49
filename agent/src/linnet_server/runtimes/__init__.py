"""What runs a model: `onnxruntime` (CPU, CUDA, TensorRT), and `tensorrt` with an engine of its own.

- `targets` reads out of a variant's name what it is to run on, `interface` says what all runtimes
  have in common. Who answers requests (`lane.py`) never knows which one it has.
- Whatever may take the process down (a GPU, a driver, an engine that is built) is tried in a child
  first (`trial`): a crash there is a verdict, not an outage.
- The `files` runtime is not here: the model is another program's, and this server never loads it.
  The agent swaps `current`, runs the hook and asks for health (`linnet_agent.programs`).
"""
