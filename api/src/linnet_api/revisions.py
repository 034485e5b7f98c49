"""Revisions: named by the hash of their content, so that going back keeps a model's history.

- The same artifact, variants and serving give the same revision, in every cluster, for ever.
"""

import hashlib
import json
from typing import Final

from linnet_api.model_deployment import Serving

_LENGTH: Final = 10


def revision_of(*, artifact: str, variants: tuple[str, ...], serving: Serving) -> str:
    """Return the revision's name: 10 hex digits over artifact digest, variants and serving.

    Args:
        artifact: Digest of the artifact, ``sha256:<64 hex>``.
        variants: In order of preference.
        serving: With its name filled in.
    """
    content = {"artifact": artifact, "serving": serving.to_dict(), "variants": list(variants)}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_LENGTH]
