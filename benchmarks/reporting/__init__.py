"""What is made of the figures for people: tables on the terminal, plots, Markdown reports and docs/benchmarks.md."""
