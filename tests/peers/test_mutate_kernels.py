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
        assert mutant.source in text
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


def test_a_kernel_file_is_tried_against_the_tests_of_its_name_and_a_header_against_all():
    assert suites_of("matvec_nf4.cu") == "*DeviceMatvec.*:*DeviceMatvecArguments.*"
    everything = suites_of("launch.cuh").split(":")
    assert {"*DeviceMatvec.*", "*DeviceQuantizeAbsmax.*", "*DeviceDequantizeBlockwise.*"} <= set(everything)
    assert suites_of("of_no_test.cu").split(":") == everything


def test_the_list_of_equivalent_mutants_is_current(root):
    result = subprocess.run(
        [sys.executable, root / "scripts" / "mutate_kernels.py", "--list"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith(" mutants")
