import numpy as np
import torch

from icmformer.layers import clickmap
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


def test_both_ways_of_drawing_give_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    for height, width in ((32, 40), (7, 90), (224, 224)):
        points = (torch.rand(3, 24, 3, generator=generator) * 1.4 - 0.2) * torch.tensor([height, width, 24])
        points[torch.rand(3, 24, generator=generator) < 0.3] = -1
        points[0, :6, :2] = points[0, :6, :2].round()  # whole pixels, where the edge is met exactly
        assert torch.equal(disk_maps(points, height, width), clickmap._compared(points, height, width, 5.0))


def test_many_clicks_cost_their_disks_not_a_map_each():
    points = torch.rand(1, 400, 3) * 448
    maps = disk_maps(points, 448, 448)
    assert 0 < maps.sum() < 400 * 100
    assert set(maps.unique().tolist()) == {0.0, 1.0}
