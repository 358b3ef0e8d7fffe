"""What all tests share."""

from __future__ import annotations

import os

# The networks of the tests are tiny: a second thread costs more than it computes, here and in the commands they run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
