"""Files that are no weights, given to start a training from."""

import pytest

from icmformer.errors import WeightsError
from tests.engines import MINIATURE
from training.loop.initial_weights import starting_network


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>Not found</html>", b"\x80\x02}q\x00.", b"\x80\x04\x95"])
def test_a_file_that_is_no_weights_is_told_by_name(tmp_path, content):
    path = tmp_path / "backbone.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"backbone\.pth") as told:
        starting_network(MINIATURE, str(path))
    assert "weights_only" not in str(told.value)
