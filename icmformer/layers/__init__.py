"""Building blocks of the networks: attention, blocks, windows, embeddings and click maps."""
