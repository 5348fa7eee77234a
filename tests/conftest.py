"""Settings of our own tests only: one torch thread a worker, derandomised Hypothesis, no hub."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
