"""The largest student that keeps a time: what a machine was measured to take, and what follows for any student."""
