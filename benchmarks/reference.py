"""CARL of the reference implementation (icon_registration 1.1.9) and ours, on equal weights.

    pip download --no-deps icon_registration==1.1.9    then unpack it and name the folder

What it imports and does not need here is replaced by empty modules, and on a processor two of
its calls that insist on a GPU are taken out: without that it stops before the first layer.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from carl_cli.model.network import ModelConfig, build_network
from carl_cli.model.operators import Registrar
from carl_cli.model.published import load_published
from tests.model.reference import drawn_weight

NOT_NEEDED = ("torchvision", "footsteps", "torch.utils.tensorboard", "tqdm")


def theirs(folder: Path, shape: Sequence[int], device: str, extra_step: bool = False) -> Any:
    """Their network for images of that shape, with its loss, drawn weights, in eval mode.

    extra_step: with the U-Net at full resolution that their second training appends.
    """
    with _stand_ins(), _gpu_calls_taken_out(device):
        sys.path.insert(0, str(folder))
        import icon_registration as icon
        from icon_registration.carl import make_network_final_final

        network = make_network_final_final([1, 1, *shape], len(shape)).regis_net
    if extra_step:
        unet = icon.networks.tallUNet2(dimension=len(shape))
        network = icon.TwoStepRegistration(network, icon.FunctionFromVectorField(unet))
    # The sparse regulariser is what their code for pairs uses, and what ours computes.
    whole = icon.losses.GradientICONSparse(network, icon.LNCC(4), 1.5)
    whole.assign_identity_map([1, 1, *shape])
    drawn = {k: drawn_weight(k, list(v.shape)) for k, v in whole.regis_net.state_dict().items()}
    kept = {k: v for k, v in whole.regis_net.state_dict().items() if k.endswith("identity_map")}
    whole.regis_net.load_state_dict(drawn | kept, strict=False)
    return whole.to(device).eval()


def ours(whole: Any, device: str) -> Registrar:
    """Our network of the same description, with their weights."""
    network = build_network(ModelConfig())
    state = {k: v.cpu() for k, v in whole.regis_net.state_dict().items()}
    load_published(network, state)
    return network.to(device)


def pair(shape: Sequence[int], device: str) -> tuple[Tensor, Tensor]:
    """Fixed and moving (1, 1, *shape) in [0, 1]: smooth noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, *(n // 6 + 2 for n in shape), generator=generator)
    fixed, moving = nn.functional.interpolate(coarse, tuple(shape), mode="trilinear").to(device)
    return fixed[None], moving[None]


def their_maps(whole: Any, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """phi fixed → moving and moving → fixed at all voxels, in unit coordinates."""
    with _sdp_of_any_kind(fixed.device.type):
        whole.identity_map.isIdentity = True
        ahead = whole.regis_net(moving, fixed)(whole.identity_map)
        return ahead, whole.regis_net(fixed, moving)(whole.identity_map)


def their_steps(whole: Any, fixed: Tensor, moving: Tensor, steps: int, rate: float) -> None:
    """As many steps of Adam on all parameters as their function for pairs makes."""
    optimiser = torch.optim.Adam(whole.parameters(), lr=rate)
    with _sdp_of_any_kind(fixed.device.type):
        for _ in range(steps):
            optimiser.zero_grad()
            whole(moving, fixed)[0].backward()
            optimiser.step()


def their_objectives(whole: Any, fixed: Tensor, moving: Tensor, noise: Tensor) -> dict[str, Any]:
    """Loss, similarity and regularity of their two trainings, of the diffusion one for both
    orders of the pair, fixed → moving first. noise: what moves the voxels of GradICON."""
    from icon_registration import losses

    stages = [losses.DiffusionRegularizedNet, losses.GradientICON]
    nets = [stage(whole.regis_net, losses.LNCC(4), 1.5) for stage in stages]
    for net in nets:
        net.assign_identity_map([1, 1, *fixed.shape[2:]])
        net.train()
    with torch.no_grad(), _sdp_of_any_kind("cpu"), _drawn(noise):
        orders = [nets[0](moving, fixed), nets[0](fixed, moving)]
        return {"diffusion": [_told(o) for o in orders], "gradicon": _told(nets[1](moving, fixed))}


def _told(loss: Any) -> dict[str, float]:
    whole, regularity, similarity = (float(value) for value in loss[:3])
    return {"loss": whole, "similarity": similarity, "regularity": regularity}


@contextlib.contextmanager
def _drawn(noise: Tensor) -> Any:
    """torch.randn gives this, as their GradICON takes no generator."""
    kept = torch.randn
    torch.randn = lambda *_: noise  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn = kept


@contextlib.contextmanager
def _stand_ins() -> Any:
    for name in NOT_NEEDED:
        module = sys.modules.setdefault(name, ModuleType(name))
        vars(module).setdefault("SummaryWriter", None)
    yield


@contextlib.contextmanager
def _gpu_calls_taken_out(device: str) -> Any:
    kept = nn.Module.cuda
    if device == "cpu":
        nn.Module.cuda = lambda module, *_: module  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.cuda = kept  # type: ignore[method-assign]


@contextlib.contextmanager
def _sdp_of_any_kind(device: str) -> Any:
    """Their attention refuses the plain kernel, the only one for a processor."""
    kept = torch.backends.cuda.sdp_kernel
    if device == "cpu":
        torch.backends.cuda.sdp_kernel = lambda **_: contextlib.nullcontext()
    try:
        yield
    finally:
        torch.backends.cuda.sdp_kernel = kept
