"""The testbed: a real API server, Prometheus, registry and N edge nodes on one Linux machine."""

from linnet_testbed.bed import Testbed
from linnet_testbed.errors import TestbedError, TestbedUnavailableError
from linnet_testbed.node import Node
from linnet_testbed.settings import Settings

__all__ = ["Node", "Settings", "Testbed", "TestbedError", "TestbedUnavailableError"]
