"""The `icmformer` command."""
