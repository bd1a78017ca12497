"""Measuring speed and looking at runs."""
