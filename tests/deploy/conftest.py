"""The stand-in for Label Studio serves here too."""

from tests.ls_backend.conftest import studio

__all__ = ["studio"]
