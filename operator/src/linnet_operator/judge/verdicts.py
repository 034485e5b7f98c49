"""The closed list of what a judge may say: one word for each thing, shared with the contract.

Rules:
- Pass means two things at once: no evidence of harm, and the rise that ``detect`` names is
  excluded.
- There is no boolean: everything that is not a Pass has a name of its own.
"""

from linnet_api import Verdict

__all__ = ["Verdict"]
