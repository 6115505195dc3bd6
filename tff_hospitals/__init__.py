"""Compare ways in which hospitals train one model together, at the same verified privacy.

Importing the package is instant: sub-packages load on first use, and TensorFlow only with the ones that need it.
"""

from __future__ import annotations

__version__ = "0.1.0"
