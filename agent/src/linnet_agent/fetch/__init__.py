"""The way of a model's bytes from where it was published to the node's staging directory."""
