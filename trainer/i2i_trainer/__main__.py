"""`python -m i2i_trainer` is `i2i-train`."""

from i2i_trainer.cli import main

# Worker processes import this file again.
if __name__ == "__main__":
    main()
