"""The demo: seven acts on ten edge nodes, with real parts, and a table at the end.

- An act says beforehand what it expects, and is judged on what was seen, never on what was sent.
- Everything that it waits for has a name and a limit; while it waits it prints what moved.
"""
