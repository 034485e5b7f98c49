"""The agent: one on every node; it alone decides whether the node may run a model."""
