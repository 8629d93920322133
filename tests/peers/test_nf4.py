"""NF4 and double quantization against numpy (the rule, every byte) and against bitsandbytes on the CPU.

QLORA_BIN names the folder of the built programs; without it the tests fail.

Where bitsandbytes' CPU path departs from the rule, by design, and is therefore not compared:
- quantize_4bit divides in a last short block, where the rule multiplies by the reciprocal;
- it clamps absmax to 1e-38 before the reciprocal, so blocks below that (and zero blocks) are left out;
- its AVX-512 code rounds to bfloat16 with an instruction that flushes subnormal numbers to zero;
- its 8-bit quantizer sorts scales into 65,536 bins, so nested codes are compared with numpy only.
Its mean of the scales is torch's, whose order of summation differs: the offset agrees within 2 ulp.
"""

import os
import pathlib
import subprocess

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch

NF4 = bnb.get_4bit_type("nf4", device="cpu").numpy()
TORCH_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
PATHS = ["portable"] + ["avx2"] * (torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"))


def program(name):
    folder = os.environ.get("QLORA_BIN")
    assert folder, "set QLORA_BIN to the folder of the built programs"
    path = pathlib.Path(folder) / name
    assert path.is_file(), f"{path} is not built"
    return str(path)


def raw_bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def quantize(tmp_path, values, dtype="f32", blocksize=64, double_quant=False, path=PATHS[-1], expect=0):
    """`values`: a torch tensor of the dtype. Returns the program's files as arrays."""
    source, out = tmp_path / "values.bin", tmp_path / "out"
    source.write_bytes(raw_bytes(values))
    command = [program("quantize_file"), "--dtype", dtype, "--blocksize", str(blocksize), "--instruction-set", path]
    command += ["--double-quant"] if double_quant else []
    done = subprocess.run(command + [str(source), str(out)], capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    if expect:
        return done.stderr
    read = lambda name, kind: np.fromfile(out / name, kind)
    result = {
        "codes": read("codes.bin", np.uint8),
        "absmax": read("absmax.bin", np.uint8 if double_quant else np.float32),
        "scales": read("scales.bin", np.float32),
        "f32": read("dequant_f32.bin", np.uint32),
        "f16": read("dequant_f16.bin", np.uint16),
        "bf16": read("dequant_bf16.bin", np.uint16),
    }
    if double_quant:
        result["nested_absmax"] = read("nested_absmax.bin", np.float32)
        result["offset"] = read("offset.bin", np.float32)[0]
    return result


def reference_nf4(values, blocksize):
    """The rule in numpy fp32: packed codes, absmax, and the codes one by one."""
    thresholds = (NF4[:-1] + NF4[1:]) / np.float32(2)
    codes, absmax = [], []
    with np.errstate(all="ignore"):
        for begin in range(0, len(values), blocksize):
            block = values[begin : begin + blocksize]
            largest = np.abs(block).max()
            x = block * (np.float32(1) / largest)
            q = (x[:, None] > thresholds[None, :]).sum(axis=1)
            codes.append(np.where(np.isnan(x), 7, q))
            absmax.append(largest)
    codes = np.concatenate(codes) if codes else np.zeros(0, int)
    padded = np.append(codes, [7] * (len(codes) % 2)).astype(np.uint8)
    return padded[::2] << 4 | padded[1::2], np.array(absmax, np.float32), codes


def pivot_search(table, x):
    """bitsandbytes' CUDA search, vectorised: seven halving steps, then the neighbour beyond the midpoint."""
    pivot = np.full(x.shape, 127)
    above, below = np.full(x.shape, 255), np.zeros(x.shape, int)
    for step in (64, 32, 16, 8, 4, 2, 1):
        greater = x > table[pivot]
        below, above = np.where(greater, pivot, below), np.where(greater, above, pivot)
        pivot = np.where(greater, pivot + step, pivot - step)
    half = np.float32(0.5)
    up = np.where(x > (table[above] + table[pivot]) * half, above, pivot)
    down = np.where(x < (table[below] + table[pivot]) * half, below, pivot)
    return np.where(x > table[pivot], up, down)


def random_values(n, seed, deviation=0.02):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * deviation


def cases():
    ramp = torch.linspace(-1, 1, 4096)
    thresholds = torch.from_numpy((NF4[:-1] + NF4[1:]) / np.float32(2))
    up, down = (torch.nextafter(thresholds, torch.tensor(end)) for end in (2.0, -2.0))
    near = torch.cat([thresholds, up, down])
    ties = torch.cat([near, torch.ones(64 - len(near) % 64)])
    mixed = random_values(64 * 40, 8)
    mixed[64 * 3 : 64 * 5] = 0
    mixed[64 * 7 : 64 * 8] *= 1e-38
    mixed[64 * 9 : 64 * 10] *= 1e-42
    mixed[64 * 11] = -0.0
    scale = torch.logspace(-44, 38, 100).repeat_interleave(64)
    return {
        "random": random_values(64 * 500, 1),
        "outliers": random_values(64 * 200, 2) * (1 + 50 * (random_values(64 * 200, 3, 1.0) > 2.5)),
        "ramp": ramp,
        "ties": ties,
        "zero": torch.zeros(200),
        "zero and tiny blocks": mixed,
        "huge": random_values(64 * 20, 4, 1.0).clamp(-3, 3) * 1.1e38,
        "every magnitude": random_values(6400, 5, 1.0).clamp(-3, 3) * scale,
        "one": torch.tensor([-0.3]),
        "odd": random_values(64 * 7 + 13, 6),
        "short": random_values(31, 7),
        "empty": torch.zeros(0),
    }


CASES = cases()


def finite_in(values, dtype):
    converted = values.to(TORCH_TYPES[dtype])
    return torch.where(torch.isfinite(converted), converted, torch.zeros_like(converted))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_every_byte_follows_the_rule(tmp_path, case, dtype, path):
    values = finite_in(CASES[case], dtype)
    for blocksize in (32, 64, 256, 4096):
        found = quantize(tmp_path, values, dtype, blocksize, path=path)
        packed, absmax, codes = reference_nf4(values.float().numpy(), blocksize)
        np.testing.assert_array_equal(found["codes"], packed)
        np.testing.assert_array_equal(found["absmax"].view(np.uint32), absmax.view(np.uint32))
        exact = torch.from_numpy(NF4[codes] * np.repeat(absmax, blocksize)[: len(codes)])
        for name, kind in TORCH_TYPES.items():
            bits = exact.to(kind).view(torch.int32 if name == "f32" else torch.int16).numpy()
            np.testing.assert_array_equal(found[name], bits.view(found[name].dtype))


@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_bytes_equal_bitsandbytes_in_whole_blocks(tmp_path, case, dtype):
    values = finite_in(CASES[case], dtype)
    if not len(values):
        pytest.skip("bitsandbytes refuses empty tensors")
    compared = 0
    for blocksize in (32, 64, 128, 4096):
        found = quantize(tmp_path, values, dtype, blocksize)
        packed, state = bnb.quantize_4bit(values, blocksize=blocksize, quant_type="nf4")
        packed, absmax = packed.flatten().numpy(), state.absmax.numpy()
        whole = len(values) // blocksize
        for block in range(whole):
            if absmax[block] < 1e-38:
                continue
            part = slice(block * blocksize // 2, (block + 1) * blocksize // 2)
            np.testing.assert_array_equal(found["codes"][part], packed[part])
            assert found["absmax"][block] == absmax[block]
            compared += 1
    if case in ("random", "outliers", "ties", "huge", "ramp") and dtype != "f16":
        assert compared > 0


@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("double_quant", [False, True])
def test_bitsandbytes_decodes_our_bytes_to_our_bits(tmp_path, case, dtype, double_quant):
    values = finite_in(CASES[case], "f32")
    n, blocksize = len(values), 64
    if not n:
        pytest.skip("bitsandbytes refuses empty tensors")
    found = quantize(tmp_path, values, "f32", blocksize, double_quant)
    state = bnb.QuantState(
        absmax=torch.from_numpy(found["scales"]),
        shape=torch.Size([n]),
        dtype=TORCH_TYPES[dtype],
        blocksize=blocksize,
        code=torch.from_numpy(NF4),
        quant_type="nf4",
    )
    packed = torch.from_numpy(found["codes"]).unsqueeze(1)
    back = bnb.dequantize_4bit(packed, state).flatten()[:n]
    bits = back.view(torch.int32 if dtype == "f32" else torch.int16).numpy()
    comparable = np.ones(n, bool)
    if dtype == "bf16":
        exact = found["f32"].view(np.float32)
        comparable = (exact == 0) | (np.abs(exact) >= np.float32(2.0**-126))
    np.testing.assert_array_equal(found[dtype][comparable], bits.view(found[dtype].dtype)[comparable])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("blocks", [1, 2, 255, 256, 257, 1000, 5000])
def test_nested_scales_follow_the_pivot_search(tmp_path, blocks, path):
    values = random_values(blocks * 32, blocks, 1.0) * torch.rand(blocks).repeat_interleave(32)
    found = quantize(tmp_path, values, "f32", 32, True, path)
    plain = quantize(tmp_path, values, "f32", 32, False, path)
    absmax, offset = plain["absmax"], found["offset"]
    exact_mean = np.float32(absmax.astype(np.float64).sum() / blocks)
    assert abs(int(offset.view(np.int32)) - int(exact_mean.view(np.int32))) <= 1
    torch_mean = torch.from_numpy(absmax).mean().numpy()
    assert abs(int(offset.view(np.int32)) - int(torch_mean.view(np.int32))) <= 2
    table = bnb.create_dynamic_map(signed=True).numpy()
    for group in range(0, blocks, 256):
        difference = absmax[group : group + 256] - offset
        largest = np.abs(difference).max()
        assert found["nested_absmax"][group // 256] == largest
        with np.errstate(all="ignore"):
            x = difference * (np.float32(1) / largest)
        expected = pivot_search(table, np.where(np.isnan(x), np.float32(0), x))
        np.testing.assert_array_equal(found["absmax"][group : group + 256], expected)
        scales = table[expected] * largest + offset
        np.testing.assert_array_equal(found["scales"][group : group + 256], scales)


def test_bitsandbytes_decodes_our_nested_scales_to_our_bits(tmp_path):
    values = random_values(64 * 700, 12)
    found = quantize(tmp_path, values, "f32", 64, True)
    table = bnb.create_dynamic_map(signed=True)
    nested = bnb.QuantState(
        absmax=torch.from_numpy(found["nested_absmax"]), blocksize=256, code=table, dtype=torch.float32
    )
    state = bnb.QuantState(
        absmax=torch.from_numpy(found["absmax"]),
        shape=torch.Size([len(values)]),
        dtype=torch.float32,
        blocksize=64,
        code=torch.from_numpy(NF4),
        quant_type="nf4",
        offset=torch.tensor(found["offset"]),
        state2=nested,
    )
    back = bnb.dequantize_4bit(torch.from_numpy(found["codes"]).unsqueeze(1), state).flatten()
    np.testing.assert_array_equal(found["f32"], back.view(torch.int32).numpy().view(np.uint32))


@pytest.mark.parametrize("signed", [True, False])
def test_dynamic_maps_are_bitsandbytes(tmp_path, signed):
    subprocess.run([program("quantize_file"), "--dynamic-maps", str(tmp_path)], check=True)
    found = np.fromfile(tmp_path / f"dynamic_{'signed' if signed else 'unsigned'}.bin", np.uint32)
    expected = bnb.create_dynamic_map(signed=signed).numpy().view(np.uint32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", TORCH_TYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_reported(tmp_path, bad, dtype, path):
    values = random_values(300, 1).to(TORCH_TYPES[dtype])
    values[201] = bad
    values[250] = bad
    message = quantize(tmp_path, values, dtype, path=path, expect=3)
    assert "value 201 is not finite" in message
