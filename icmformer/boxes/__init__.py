"""Boxes into masks: for the boxes that a tool or a file holds already, in bulk."""
