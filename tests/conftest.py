"""What all tests share."""

from __future__ import annotations

import os
import tempfile

pytest_plugins = ["fault_table"]

# The networks of the tests are tiny: a second thread costs more than it computes, here and in the commands they run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Plans that a test builds come from no earlier run, and stay out of the user's cache.
os.environ["I2I_CACHE"] = tempfile.mkdtemp(prefix="i2i-tests-")
