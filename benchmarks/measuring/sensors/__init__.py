"""What the machine does meanwhile: power, clocks, temperature, throttling, and who else has the processor.

A file for each source: `base` says what a sensor is, `window` chooses those of this machine and sums up what they tell.
"""

from measuring.sensors.window import Sensors, Window

__all__ = ["Sensors", "Window"]
