"""Trust on the node: what was signed, by whom, and whether that is enough."""
