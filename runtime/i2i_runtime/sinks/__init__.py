"""Sinks take translated frames: videos, pictures, a window."""
