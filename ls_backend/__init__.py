"""Label Studio's door: an ML backend for the smart keypoint and rectangle tools."""
