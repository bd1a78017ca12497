import numpy as np
import torch

from icmformer.layers.clickmap import disk_maps


def test_disks_are_where_the_distance_is_at_most_five():
    points = torch.tensor(
        [
            [[10.0, 12.0, 0], [3.3, 28.9, 2], [35.2, 20.1, 1], [-1, -1, -1]],
            [[-1, -1, -1], [-1, -1, -1], [-2.5, 7.0, 0], [-3.0, -0.5, 1]],  # beyond the edge; both negative: absent
        ]
    )
    maps = disk_maps(points, 32, 40).numpy()
    rows, columns = np.mgrid[:32, :40]
    for sample in range(2):
        for kind in range(2):
            expected = np.zeros((32, 40), bool)
            for row, column, _ in points[sample, 2 * kind : 2 * kind + 2].tolist():
                if max(row, column) >= 0:
                    expected |= np.hypot(rows - row, columns - column) <= 5
            np.testing.assert_array_equal(maps[sample, kind], expected)
    assert maps[1, 0].sum() == 0
    assert maps[1, 1].sum() > 0


def test_the_disk_edge_is_inside():
    maps = disk_maps(torch.tensor([[[20.0, 20.0, 0], [-1, -1, -1]]]), 41, 41)
    assert maps[0, 0, 20, 25] == 1
    assert maps[0, 0, 23, 24] == 1  # a 3-4-5 triangle
    assert maps[0, 0, 20, 26] == 0
