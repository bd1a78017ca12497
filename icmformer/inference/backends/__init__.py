"""Runtimes that do a network's arithmetic: torch and OpenVINO."""
