"""How far a pass over a network has come: the multiplications done, of all that it will take.

Convolutions tell of theirs by hooks, tiles of attention by themselves (`work_done`). Windows are
not counted: they take little beside the features that they compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from carl_cli.model.attention import CoordinateAttention, WindowAttention
from carl_cli.model.encoder import Encoder, HalvingStem
from carl_cli.model.fields import Shape
from carl_cli.model.kernels.tiled import weight_effort
from carl_cli.model.operators import Blurred, Down, Registrar, Symmetric, SymmetricTwoStep, TwoStep
from carl_cli.model.unet import DisplacementUNet
from carl_cli.progress import listening, work_done

KINDS = {Encoder: "features", DisplacementUNet: "refinement"}
Transposed = nn.ConvTranspose2d | nn.ConvTranspose3d
Convolution = nn.Conv2d | nn.Conv3d | Transposed


@contextmanager
def watched(
    network: Registrar, image: Tensor, report: Callable[[float, str], None]
) -> Iterator[None]:
    """Within it, `network.both_directions` of images of this one's shape (1, C, *shape) calls
    report(part done from 0 to 1, what is being done)."""
    total = max(effort(network, image.shape[2:], image.shape[1]), 1)
    done, one_at_a_time = 0.0, Lock()  # two halves may tell at once

    def heard(amount: float, kind: str) -> None:
        nonlocal done
        with one_at_a_time:
            done += amount
            report(done / total, kind)

    hooks = [h for part in network.modules() if type(part) in KINDS for h in _hooks(part)]
    try:
        with listening(heard):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def effort(network: nn.Module, shape: Shape, channels: int = 1, directions: int = 2) -> int:
    """Multiplications that a network tells of, for so many directions of images
    (1, channels, *shape)."""
    if isinstance(network, Down):
        return effort(network.inner, _halved(shape), channels, directions)
    if isinstance(network, Blurred | Symmetric):
        found = 2 if isinstance(network, Symmetric) else directions
        return effort(network.inner, shape, channels, found)
    if isinstance(network, TwoStep):
        found = 2 if isinstance(network, SymmetricTwoStep) else directions
        first = effort(network.first, shape, channels, found)
        return first + found * effort(network.second, shape, channels, 1)
    if isinstance(network, CoordinateAttention):
        matching = directions * _matching(network, shape, channels)
        return 2 * _encoding(network, shape, channels) + matching
    if isinstance(network, WindowAttention):
        (attention,) = network._borrowed
        return 2 * directions * _encoding(attention, shape, channels)
    return directions * _refining(network, shape) if isinstance(network, DisplacementUNet) else 0


def _matching(attention: CoordinateAttention, shape: Shape, channels: int) -> int:
    encoder = attention.encoder
    seen = _halved(_padded(attention, shape), encoder.halvings)
    inner, stride = (n - 2 * attention.margin for n in seen), attention.query_stride
    queries, keys = math.prod(-(-n // stride) for n in inner), math.prod(seen)
    features = encoder.width * channels // encoder.channels
    return queries * keys * weight_effort(features, len(shape))


def _encoding(attention: CoordinateAttention, shape: Shape, channels: int) -> int:
    """For the features of one image: each contrast is encoded by itself."""
    encoder, padded = attention.encoder, _padded(attention, shape)
    last = _halved(padded, encoder.halvings)
    total = sum(_times(layer, last) for layer in _convolutions(encoder.blocks))
    halving = isinstance(encoder.stem, HalvingStem)
    for k, layer in enumerate(_convolutions(encoder.stem)):
        total += _times(layer, _halved(padded, k) if halving else last)
    return total * (1 + len(encoder.turned_axes)) * channels // encoder.channels


def _refining(unet: DisplacementUNet, shape: Shape) -> int:
    total = _times(unet.last, shape)
    for layers in (unet.downs, unet.ups):
        for k, layer in enumerate(_convolutions(layers), start=1):
            total += _times(layer, _halved(shape, k))
    return total


def _times(layer: nn.Module, shape: Shape) -> int:
    """Multiplications of a convolution that leaves this shape, or of a transposed one of it."""
    return sum(p.numel() for p in layer.parameters() if p.dim() > 1) * math.prod(shape)


def _padded(attention: CoordinateAttention, shape: Shape) -> Shape:
    return tuple(n + 2 * attention.padding for n in shape)


def _halved(shape: Shape, times: int = 1) -> Shape:
    return tuple(-(-n // 2**times) for n in shape)


def _hooks(part: nn.Module) -> list[RemovableHandle]:
    kind = KINDS[type(part)]

    def tell(layer: Convolution, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen = inputs[0] if isinstance(layer, Transposed) else output
        work_done(_times(layer, seen.shape[2:]), kind)

    return [layer.register_forward_hook(tell) for layer in _convolutions(part)]


def _convolutions(part: nn.Module) -> Iterator[Convolution]:
    return (module for module in part.modules() if isinstance(module, Convolution))
