"""The click path: regions of interest, caches, the simulated annotator, and the engine that serves."""
