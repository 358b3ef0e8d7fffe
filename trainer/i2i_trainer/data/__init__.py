"""Training pictures: found, paired, checked and turned into batches."""
