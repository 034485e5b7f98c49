"""The command line: ``linnet``, and the same as ``kubectl linnet``."""
