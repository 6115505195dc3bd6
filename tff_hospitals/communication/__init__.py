"""The byte side of training together: encoders, payloads, sizes and time on a link; numpy only.

>>> import numpy as np
>>> chain = parse_chain("topk:0.01,ternary:mean,entropy")
>>> update = np.random.default_rng(0).standard_normal((784, 200)).astype(np.float32)
>>> payload, decoded, _ = chain.encode([("kernel", update)])
>>> round(update.nbytes / len(payload))
347
>>> bool((chain.decode(payload, [(784, 200)])[0] == decoded[0]).all())
True
"""

from __future__ import annotations

from tff_hospitals.communication.chain import Chain, Encoded, Section, parse_chain
from tff_hospitals.communication.container import PayloadError
from tff_hospitals.communication.feedback import Feedback

__all__ = ["Chain", "Encoded", "Feedback", "PayloadError", "Section", "parse_chain"]
