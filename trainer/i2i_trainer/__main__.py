"""`python -m i2i_trainer` is `i2i-train`."""

from i2i_trainer.cli import main

main()
