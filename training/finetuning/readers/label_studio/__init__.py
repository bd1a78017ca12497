"""Label Studio's exports: JSON, JSON-MIN, the old `completions`, and the files of a target storage."""

from .forms import is_label_studio, label_studio_tasks
from .reader import read_label_studio
from .rle import decode_rle

__all__ = ["decode_rle", "is_label_studio", "label_studio_tasks", "read_label_studio"]
