"""``make bench-agent``: what the agent's work costs, beside who does the same, in one run.

- Every comparison is interleaved: one run of each in turns, and the median of all.
- Ratios travel; absolute figures are of this machine, and of how busy it was.
- What cannot be measured here is skipped with its reason; it is never guessed.
"""
