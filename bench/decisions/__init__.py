"""``make bench-decisions``: the judge and its rivals on simulated fleets, right answers known.

Every judge is written here, or is the project's own; so is the generator of the data.
"""
