"""The workshop: training, evaluation and fine-tuning of click-based segmentation networks."""
