"""Image files, masks and overlays: bytes to arrays and back."""
