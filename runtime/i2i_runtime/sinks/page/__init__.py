"""A page in the browser: the live picture, its figures and the controls of the run."""

from i2i_runtime.sinks.page.sink import PageSink

__all__ = ["PageSink"]
