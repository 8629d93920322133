"""The mutants of scripts/mutate_kernels.py: what is found in a kernel, and that the list of equivalent ones is current."""

import subprocess
import sys

from mutate_kernels import mutants_of, suites_of

KERNEL = """
__global__ void sum(const float* in, float* out, int n) {  // if (comment) stays
    __shared__ float tile[64];
    const int i = threadIdx.x;
    tile[i] = i < n ? in[i] : 0.0f;
    __syncthreads();
    for (int stride = 32; stride > 0; stride /= 2) {
        if (i < stride && i + stride < n) tile[i] += tile[i + stride];
        __syncwarp(0xffffffffu);
    }
    const bool wide = n % 4 == 0 && aligned(out, 16);
    if (i == 0 || wide) out[0] = tile[0];
}
#if defined(__CUDACC__)
void only_for_nvcc() { if (a < b) return; }
#else
void emulated() {}
#endif
#if defined(__CUDACC__)
void also_only_for_nvcc() { if (a < b) return; }
#endif
"""


def changes(tmp_path, text):
    path = tmp_path / "sum.cu"
    path.write_text(text)
    for mutant in mutants_of(path):
        assert text[: mutant.begin].count("\n") + 1 == mutant.line
        assert mutant.source.startswith(text.splitlines()[mutant.line - 1].strip())
    return sorted(mutant.change for mutant in mutants_of(path))


def test_barriers_conditions_operands_and_comparisons_are_found(tmp_path):
    assert changes(tmp_path, KERNEL) == sorted(
        [
            "`i < n` is true",
            "`i < n` is false",
            "`<` of `i < n` is `<=`",
            "without __syncthreads",
            "`>` of `stride > 0` is `>=`",
            "`i < stride && i + stride < n` is true",
            "`i < stride && i + stride < n` is false",
            "`i < stride` is true",
            "`i + stride < n` is true",
            "`<` of `i < stride` is `<=`",
            "`<` of `i + stride < n` is `<=`",
            "without __syncwarp",
            "`n % 4 == 0 && aligned(out, 16)` is true",
            "`n % 4 == 0 && aligned(out, 16)` is false",
            "`n % 4 == 0` is true",
            "`aligned(out, 16)` is true",
            "`i == 0 || wide` is true",
            "`i == 0 || wide` is false",
            "`i == 0` is false",
            "`wide` is false",
        ]
    )


def test_code_without_conditions_has_no_mutants(tmp_path):
    assert changes(tmp_path, "__global__ void copy(const float* in, float* out) { out[0] = in[0]; }\n") == []


def test_a_kernel_file_is_tried_against_the_tests_of_its_name_and_then_against_all():
    own, everything = suites_of("matvec_nf4.cu")
    assert own == "*DeviceMatvec.*:*DeviceMatvecArguments.*"
    assert {"*DeviceMatvec.*", "*DeviceQuantizeAbsmax.*", "*DeviceDequantizeBlockwise.*"} <= set(everything.split(":"))
    own, _ = suites_of("rms_norm.cu")
    assert "*DeviceRmsNormBackward.*" in own.split(":")
    assert suites_of("launch.cuh") == suites_of("of_no_test.cu") == [everything]


def test_of_an_earlier_run_only_survivors_are_tried_again(root, tmp_path):
    script = [sys.executable, root / "scripts" / "mutate_kernels.py", "--list", "--only", "matvec_nf4.cu"]
    listed = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    log = tmp_path / "log.txt"
    log.write_text(f"[1/2] SURVIVES: {listed[2].replace(':', ':1', 1)}\n{listed[3]}\n[2/2] caught by plain: {listed[0]}\n{listed[1]}\n")
    again = subprocess.run([*script, "--again", log], capture_output=True, text=True, check=True).stdout.splitlines()
    assert again[:2] == listed[2:4] and again[-1] == "1 mutants"


def test_the_list_of_equivalent_mutants_is_current(root):
    result = subprocess.run(
        [sys.executable, root / "scripts" / "mutate_kernels.py", "--list"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith(" mutants")
