"""Sources deliver frames: video files, cameras, pictures."""
