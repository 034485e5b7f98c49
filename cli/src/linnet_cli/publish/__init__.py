"""What publishers do, without a cluster: make keys, sign, push, verify."""
