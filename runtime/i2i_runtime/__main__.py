"""`python -m i2i_runtime` is `i2i-run`."""

from i2i_runtime.cli import main

main()
