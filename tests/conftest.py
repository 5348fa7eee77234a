"""Settings of our own tests only: a seed, one torch thread a worker, untimed Hypothesis, no hub, Triton interpreted."""

import os
import sys

import hypothesis
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not os.path.exists("/dev/nvidiactl"):
    # Read when triton is first imported, by whomever.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _seeded():
    """Let a test draw the same whatever ran before it on its worker."""
    torch = sys.modules.get("torch")
    if torch is not None:  # else nobody has drawn yet: torch begins with a seed of its own
        torch.manual_seed(0)
