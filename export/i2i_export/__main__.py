"""`python -m i2i_export` is `i2i-export`."""

from i2i_export.cli import main

main()
