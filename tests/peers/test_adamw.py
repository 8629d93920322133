"""AdamW steps against torch.optim.AdamW(foreach=False) over 50 steps.

QLORA_BIN names the folder of the built programs; without it the tests fail.

With fused=True every bit of parameters and moments is equal, over all steps, except in the last n % 8 places, where torch
computes in another way. Without it torch takes square roots from a vector library that misses the nearest float about once in six, so there the moments are equal and the parameters close: an
update is off by its last bits, and the steps add up. Bits are compared where torch runs its AVX2 or AVX-512 code, which
fuses the updates of the moments as we do everywhere.
"""

import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch

STEPS = 50


def program(name):
    folder = os.environ.get("QLORA_BIN")
    assert folder, "set QLORA_BIN to the folder of the built programs"
    path = pathlib.Path(folder) / name
    assert path.is_file(), f"{path} is not built"
    return str(path)


def bits(tensor):
    return tensor.detach().numpy().view(np.int32)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch does not fuse the moments here"
)
@pytest.mark.parametrize("n", [1, 7, 1000, 4099])
@pytest.mark.parametrize(
    "settings",
    [
        dict(lr=2e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
        dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
        dict(lr=5e-2, betas=(0.3, 0.5), eps=1e-6, weight_decay=0.01),
    ],
)
@pytest.mark.parametrize("grad_scale", [1.0, 0.37])
def test_fifty_steps_equal_torch(tmp_path, n, settings, grad_scale):
    generator = torch.Generator().manual_seed(n)
    start = torch.randn(n, generator=generator) * 0.02
    gradients = torch.randn(STEPS, n, generator=generator) * torch.logspace(-6, 1, n)
    gradients[:, :: max(2, n // 5)] = 0  # a parameter that never gets a gradient
    start.numpy().tofile(tmp_path / "p.bin")
    gradients.numpy().tofile(tmp_path / "g.bin")
    numbers = [settings["lr"], *settings["betas"], settings["eps"], settings["weight_decay"], grad_scale, STEPS]
    files = [str(tmp_path / name) for name in ("p.bin", "g.bin", "out.bin")]
    subprocess.run([program("adamw_file"), "32", *map(repr, numbers), *files], check=True)
    found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(STEPS, 3, n)

    optimizers = {}
    for fused in (True, False):
        parameter = torch.nn.Parameter(start.clone())
        optimizers[fused] = parameter, torch.optim.AdamW([parameter], foreach=False, fused=fused, **settings)
    for step in range(STEPS):
        p, m, v = found[step]
        for fused, (parameter, optimizer) in optimizers.items():
            parameter.grad = gradients[step] * torch.tensor(grad_scale)
            optimizer.step()
            state = optimizer.state[parameter]
            whole = n - n % 8 if fused else n
            np.testing.assert_array_equal(m[:whole].view(np.int32), bits(state["exp_avg"])[:whole])
            np.testing.assert_array_equal(v[:whole].view(np.int32), bits(state["exp_avg_sq"])[:whole])
            reference = parameter.detach().numpy()
            if fused:
                np.testing.assert_array_equal(p[:whole].view(np.int32), bits(parameter)[:whole])
            ulp = np.spacing(np.maximum(np.abs(reference), np.float32(settings["lr"])))
            assert (np.abs(p - reference) <= (4 + step) * ulp).all()
