"""The fused kernels compile for cards of compute capability 8 and 9 without a card being there,
to products in tensor cores and without registers spilled to memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed (it comes with torch for CUDA)")

# In a process of its own: the other tests ask for triton's interpreter.
SCRIPT = """
import os, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from carl_cli.model.kernels import fused, triton_kernels as kernels

def compiled(kernel, backward, capability, channels):
    settings = fused._settings(channels, True, backward)
    channels *= 3 if settings.get("FINE") else 1
    options = {name: settings.pop(name) for name in ("num_warps", "num_stages")}
    sizes = {"size_z": 62, "size_y": 62, "size_x": 62, "channels": channels}
    constants = settings | sizes
    names = kernel.arg_names
    kinds = {name: "*fp16" for name in ("queries", "keys")}
    kinds |= {"n_queries": "i32", "n_keys": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: kinds.get(name, "*fp32") for name in names}
    pointers = [k for k, name in enumerate(names) if signature[name].startswith("*")]
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(k,): [["tt.divisibility", 16]] for k in pointers},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

def stack_bytes(kernel):
    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    return int(re.search(r"STACK:(\\d+)", usage.stdout + usage.stderr)[1])

capability, channels = map(int, sys.argv[1:])
for kernel, backward in (
    (kernels.forward, False), (kernels.backward_queries, True), (kernels.backward_keys, True)
):
    done = compiled(kernel, backward, capability, channels)
    assert "mma" in done.asm["ptx"], kernel
    assert stack_bytes(done) == 0, kernel
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("channels", [32, 128])
def test_kernels_compile_for_cards(capability: int, channels: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(capability), str(channels)]
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
