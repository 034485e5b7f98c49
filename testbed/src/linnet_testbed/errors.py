"""What the testbed says when it cannot go on."""


class TestbedError(Exception):
    """A sentence for a person: what went wrong, and what to do."""

    __test__ = False  # the name is not a test class


class TestbedUnavailableError(TestbedError):
    """This machine lacks something that the testbed needs; the message says what to install."""
