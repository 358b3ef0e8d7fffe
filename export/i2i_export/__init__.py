"""Turn a checkpoint's generator into an engine, and prove that it is the same function."""
