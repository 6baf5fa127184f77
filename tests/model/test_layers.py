"""Layers against closed forms."""

import torch

from carl_cli.model.layers import pool
from carl_cli.model.unet import DisplacementUNet


def test_pool_leaves_an_axis_of_one_voxel_alone() -> None:
    x = torch.tensor([1.0, 3.0, 5.0]).reshape(1, 1, 1, 1, 3)
    assert pool(x).flatten().tolist() == [2.0, 5.0]


def test_a_thin_slab_goes_through_a_deep_u_net() -> None:
    """Four halvings of eight slices: the deepest level has one slice, and is pooled again."""
    torch.manual_seed(0)
    network = DisplacementUNet(3, 1, (4, 4, 4, 4, 4), (4, 4, 4, 4, 4), False).eval()
    torch.nn.init.normal_(network.last.weight)
    fixed, moving = torch.rand(2, 1, 1, 8, 40, 36)
    with torch.no_grad():
        displacement = network(fixed, moving).displacement_BDx
    assert displacement.shape == (1, 3, 8, 40, 36)
    assert displacement.std() > 0
