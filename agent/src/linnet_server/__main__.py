"""`linnet-server`: parse the flags, read the settings, run the process.

- `--help` imports nothing but argparse.
"""

import argparse
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    flags = vars(_parser().parse_args(argv))
    print_config = flags.pop("print_config")
    # NumPy's BLAS would start a thread a core and reserve their buffers; nothing here uses it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from linnet_server import command  # noqa: PLC0415 - a quarter of a second that --help can spare

    return command.run_server(flags, print_config=print_config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linnet-server",
        description="Serves the models that the node's agent has activated, over the Open "
        "Inference Protocol v2. Every flag is also an environment variable: --max-queue is "
        "LINNET_SERVER_MAX_QUEUE.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--root", metavar="DIR", help="the node's directory (default /var/lib/linnet)")
    add("--http", metavar="HOST:PORT", help="where to listen (default 127.0.0.1:8080)")
    add("--grpc", metavar="HOST:PORT", help="where to listen for gRPC (default: nowhere)")
    add("--control", metavar="SOCK", help="the agent's socket (default DIR/run/server.sock)")
    add("--port-file", metavar="FILE", help="where to write the port, once listening")
    add("--threads", metavar="N", help="upper bound on the threads of one run (default: cores)")
    add("--max-queue", metavar="N", help="requests that may wait for one model (default 128)")
    add("--max-batch", metavar="N", help="rows that may run as one batch (default 1: off)")
    add("--batch-delay-s", metavar="S", help="seconds to wait for a batch (default 0)")
    add("--deadline-s", metavar="S", help="seconds until a run is given up (default 30)")
    add("--drain-s", metavar="S", help="seconds that running requests get at the end (default 30)")
    add("--load-timeout-s", metavar="S", help="seconds a model may take to load (default 300)")
    add(
        "--replace",
        action="store_const",
        const=True,
        help="where two revisions do not fit into memory: free the old one first, 503 meanwhile",
    )
    add("--max-memory-bytes", metavar="N", help="private memory (default: the machine's)")
    add("--max-body-bytes", metavar="N", help="largest request body (default 64 MiB)")
    add("--token-file", metavar="FILE", help="bearer tokens, one a line; a request needs one")
    add("--tls-certificate", metavar="PEM", help="the server's certificate chain")
    add("--tls-key", metavar="PEM", help="its private key")
    add("--tls-client-ca", metavar="PEM", help="who issues the certificates that clients need")
    add(
        "--allow-network",
        action="store_const",
        const=True,
        help="listen on the network without tokens: something else keeps strangers off",
    )
    add("--access-log", action="store_const", const=True, help="write a line for each request")
    add("--otlp-endpoint", metavar="URL", help="the collector that gets spans (default: none)")
    add("--engine-cache", metavar="DIR", help="engines for this GPU (default DIR/engines)")
    add(
        "--model",
        metavar="NAME=PATH",
        action="append",
        help="serve a bare file or directory, without an agent; may come more than once",
    )
    add("--variant", metavar="NAME", help="what bare models run on (default onnx: the CPU)")
    add(
        "--allow-unverified",
        action="store_const",
        const=True,
        help="needed with --model: nothing has verified that file",
    )
    add("--print-config", action="store_true", help="print the effective settings and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
