"""Models: loading, devices, Segment Anything and CLIP."""
