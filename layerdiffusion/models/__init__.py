"""Models: loading, devices, Segment Anything and CLIP.

Whatever imports torchvision, such as diffusers, transformers and segment-anything, is imported after this package.
"""

from layerdiffusion.models._torchvision import ensure_torchvision

ensure_torchvision()
