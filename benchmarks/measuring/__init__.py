"""What the benchmarks share: turns in processes of their own, what the machine is and does meanwhile, reports."""
