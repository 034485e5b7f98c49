"""The planner: a pure function from what is known to what is written next.

Decide, record, act: a turn first writes what it decided into the ModelRollout; orders to nodes
follow, in a later turn, from what stands there. So it can be killed between any two writes, and
never acts twice on one decision.
"""
