"""The judge: decides from counts whether a candidate model does harm.

Pure functions over frozen data: no clock, no input or output, no dice. See ``assess`` for the one
function that a rollout calls, and ``learned`` and ``compare`` for the statistics.
"""
