"""State dicts as the authors publish them → our parameter names.

Their wrappers nest `net`, `netPhi` and `netPsi`; ours are walked beside them, so a key that
is missing or left over is found by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from carl_cli.errors import WeightsError
from carl_cli.model.attention import CoordinateAttention
from carl_cli.model.encoder import HalvingStem
from carl_cli.model.operators import Blurred, Down, Registrar, Symmetric, TwoStep
from carl_cli.model.unet import DisplacementUNet

# Training wrappers of the reference that may stand before the network's own keys.
WRAPPERS = ("module.", "regis_net.")
# uniCARL was trained with random affine maps around it, which have no weights.
AUGMENTED = "netPsi.netPsi."
NOT_WEIGHTS = ("identity_map", "spacing")
# Layers that uniCARL's code makes and never calls.
UNUSED = (".cross1.", ".cross2.")


def load_published(network: Registrar, published: Mapping[str, Tensor]) -> None:
    """Copy a published state dict into a network of the same description.

    Raises WeightsError naming the first keys that are missing, left over or misshapen.
    """
    source = _strip(published)
    target = network.state_dict()
    names = dict(_translate(network))
    _compare(set(names), set(source))
    for theirs, ours in names.items():
        if source[theirs].shape != target[ours].shape:
            found, expected = tuple(source[theirs].shape), tuple(target[ours].shape)
            raise WeightsError(f"{theirs} has shape {found}, this network expects {expected}")
        target[ours].copy_(source[theirs])


def fits(network: Registrar, published: Mapping[str, Tensor]) -> bool:
    """Whether a published state dict has this network's keys and shapes."""
    source, target = _strip(published), network.state_dict()
    return {theirs: target[ours].shape for theirs, ours in _translate(network)} == {
        key: value.shape for key, value in source.items()
    }


def _strip(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    source = {}
    for key, value in published.items():
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
        if not key.endswith(NOT_WEIGHTS) and not any(part in key for part in UNUSED):
            source[key] = value
    if all(key.startswith(AUGMENTED) for key in source):
        return {key.removeprefix(AUGMENTED): value for key, value in source.items()}
    return source


def _compare(expected: set[str], found: set[str]) -> None:
    for name, keys in (("lacks", expected - found), ("has the unknown key", found - expected)):
        if keys:
            first = ", ".join(sorted(keys)[:3])
            raise WeightsError(
                f"the checkpoint {name} {first} ({len(keys)} in all)",
                "choose the family that it was trained as",
            )


def _translate(network: Registrar) -> Iterator[tuple[str, str]]:
    """Pairs (published key, our key) of one network and all inside it."""
    if isinstance(network, TwoStep):
        yield from _nested(network.first, "netPhi.", "first.")
        yield from _nested(network.second, "netPsi.", "second.")
    elif isinstance(network, Down | Blurred):
        yield from _nested(network.inner, "net.", "inner.")
    elif isinstance(network, Symmetric):
        yield from _nested(network.inner, "", "inner.")
    elif isinstance(network, DisplacementUNet):
        yield from _unet(network)
    elif isinstance(network, CoordinateAttention):
        yield from _encoder(network)


def _nested(network: Registrar, theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for a, b in _translate(network):
        yield theirs + a, ours + b


def _unet(network: DisplacementUNet) -> Iterator[tuple[str, str]]:
    names = {"downs": "downConvs", "ups": "upConvs", "norms": "batchNorms", "last": "lastConv"}
    for ours in network.state_dict():
        head, _, tail = ours.partition(".")
        yield f"net.{names[head]}.{tail}", ours


def _encoder(network: CoordinateAttention) -> Iterator[tuple[str, str]]:
    """Theirs counts all convolutions in one list: the stem, then dilation by dilation. A stem
    that halves has one more before the list, and one wrapper less around it all."""
    blocks = len(network.encoder.blocks)
    wrappers = "net." if isinstance(network.encoder.stem, HalvingStem) else "net.net."
    wrappers += "net." if network.encoder.turned_axes else ""
    for ours in network.state_dict():
        part = ours.split(".")  # encoder.stem.weight, encoder.blocks.b.convs.d.weight
        if part[1] == "stem":
            theirs = "convs0" if part[2:4] == ["convs", "0"] else "convs.0"
        elif part[3] == "norm":
            theirs = f"batchnorms.{part[2]}"
        else:
            theirs = f"convs.{1 + int(part[4]) * blocks + int(part[2])}"
        yield f"{wrappers}{theirs}.{part[-1]}", ours
