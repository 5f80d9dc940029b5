"""Property tests come to the same result wherever they run, however slow or busy the machine is.

Other examples than the usual ones are drawn by `scripts/test tests/unit --hypothesis-profile=default`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
