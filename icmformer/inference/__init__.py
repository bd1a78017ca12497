"""From clicks to masks: engine, predictor, ROI and probability maps, caches, and the backends that run networks."""
