"""scripts/kernel_report.py: what it reads out of the compiler's output, and which spills it calls faults.

Where nvcc is found, one kernel file is really compiled, and machine code and PTX must tell the same.
"""

import os
import subprocess
from collections import Counter

import kernel_report
import pytest
from kernel_report import Row, Usage, faults, parse_ptx, parse_sass, parse_usage, short_name, table, widths

LOG = """ptxas info    : 1024 bytes gmem
ptxas info    : Compiling entry function '_Z4fillPf' for 'sm_90'
ptxas info    : Function properties for _Z4fillPf
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 8 bytes cumulative stack size, 64 bytes smem
ptxas info    : Compile time = 790.168 ms
ptxas info    : Function properties for slow_path
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '_Z4copyPf' for 'sm_90'
ptxas info    : Function properties for _Z4copyPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 360 bytes cmem[0]
"""

PTX = """
.visible .entry _Z4fillPf(
	.param .u64 .ptr .align 1 _Z4fillPf_param_0
)
{
	ld.param.b64 	%rd1, [_Z4fillPf_param_0];
	ld.shared.v4.b32 	{%r1, %r2, %r3, %r4}, [%r9];
	ld.global.nc.v4.b32 	{%r1, %r2, %r3, %r4}, [%rd4];
	@%p1 ld.global.b8 	%rs1, [%rd1];
	ld.volatile.global.b64 	%rd9, [%rd1];
	ld.global.L1::no_allocate.v2.f32 	{%f1, %f2}, [%rd1];
	st.global.v8.b32 	[%rd4], {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8};
	atom.global.add.f32 	%f1, [%rd4], %f2;
	@!%p2 red.global.min.s64 	[%rd5], %rd6;
	st.local.b32 	[%SP], %r1;
}
.visible .entry _Z4copyPf(
	.param .u64 _Z4copyPf_param_0
)
{
	ld.b16 	%rs1, [%rd1];
	st.global.bf16x2 	[%rd1], %r1;
}
"""

SASS = """
	.section	.text._Z4fillPf,"ax",@progbits
_Z4fillPf:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*1020*/               @P2 LDG.E.U8 R9, desc[UR4][R10.64] ;
        /*1030*/              @!P0 LDG.E.64.SYS R4, [R2] ;
        /*1040*/                   LDS.128 R4, [R2] ;
        /*1050*/                   STG.E.U16 desc[UR4][R2.64], R5 ;
        /*1060*/                   REDG.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R5 ;
        /*1070*/                   LDL R4, [R1] ;
        /*1080*/                   LDGSTS.E.BYPASS.128 [R4], desc[UR4][R2.64] ;
	.section	.text._Z4copyPf,"ax",@progbits
        /*0000*/                   LDG.E R9, desc[UR4][R10.64] ;
"""


def test_registers_stack_spills_and_shared_memory_of_each_function():
    assert parse_usage(LOG) == {
        "_Z4fillPf": Usage(128, 8, 4, 12, 64),
        "slow_path": Usage(None, 16, 0, 0, 0),
        "_Z4copyPf": Usage(8, 0, 0, 0, 0),
    }


def test_only_accesses_that_may_reach_global_memory_are_counted_in_ptx():
    assert parse_ptx(PTX) == {
        "_Z4fillPf": (Counter({16: 1, 8: 2, 1: 1}), Counter({32: 1, 8: 1, 4: 1})),
        "_Z4copyPf": (Counter({2: 1}), Counter({4: 1})),
    }


def test_a_ptx_access_of_unknown_width_is_not_passed_over():
    with pytest.raises(kernel_report.ReportError, match="pred"):
        parse_ptx(".entry f(\n)\n\tst.global.pred [%rd1], %p1;\n")


def test_accesses_of_machine_code_under_predicates_and_past_four_digits():
    assert parse_sass(SASS) == {
        "_Z4fillPf": (Counter({16: 2, 8: 1, 1: 1}), Counter({2: 1, 4: 1})),
        "_Z4copyPf": (Counter({4: 1}), Counter()),
    }


@pytest.mark.parametrize(
    ("readable", "short"),
    [
        ("qlora::kernels::cuda::fill(float*)", "fill"),
        (
            "void qlora::kernels::cuda::_GLOBAL__N__d8aa4b2e_13_m_cu_937fe075::rows<qlora::kernels::cuda::"
            "Bits<qlora::kernels::cuda::BF16> , 8>(qlora::Nf4View, void const*)",
            "rows<Bits<BF16>, 8>",
        ),
        ("void (anonymous namespace)::rows<a::Bits<a::F16> >(void (*)(int))", "rows<Bits<F16>>"),
        ("void a::rows<a::F32, (int)8, true>(int)", "rows<F32, 8, true>"),
        ("void a::rows<a::F32, true, a::Shape<128, 4> >(int)", "rows<F32, true, Shape<128, 4>>"),
        ("_Z4fillPf", "_Z4fillPf"),
    ],
)
def test_names_are_shortened_to_what_tells_kernels_apart(readable, short):
    assert short_name(readable) == short


def row(spills=(0, 0), kernel="fill", arch="sm_90", loads=None):
    return Row("fill.cu", kernel, arch, Usage(128, 8, *spills, 64), Counter(loads or {}), Counter())


def explanation(**changes):
    entry = {"file": "fill.cu", "kernel": "fill", "archs": ["sm_90"], "bytes": 16, "reason": "why"}
    return [entry | changes]


def test_an_unexplained_spill_is_a_fault():
    assert faults([row()], []) == []
    assert faults([row((4, 12))], explanation()) == []
    assert "spills 16 bytes" in faults([row((4, 12))], [])[0]
    assert "16 are explained" in faults([row((8, 12))], explanation())[0]
    assert len(faults([row((4, 4), arch="sm_80"), row((4, 4))], explanation())) == 1
    assert "no reason" in faults([row((4, 12))], explanation(reason=""))[0]


def test_an_explanation_that_nothing_needs_is_a_fault_only_where_it_was_looked_for():
    assert "not there" in faults([row()], explanation())[0]
    assert "not there" in faults([row()], explanation(kernel="gone"))[0]
    assert faults([row(arch="sm_80")], explanation()) == []
    assert faults([row()], explanation(file="other.cu")) == []


def test_the_table_names_file_kernel_and_widths():
    text = table([row(loads={16: 8, 4: 1}), row((4, 12), arch="sm_120")])
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["--", "fill.cu"],
        ["fill", "sm_90", "128", "8", "-", "64", "16x8", "4", "-"],
        ["fill", "sm_120", "128", "8", "4/12", "64", "-", "-"],
    ]
    assert widths(Counter()) == "-"


LAUNCHER = kernel_report.ROOT / "scripts" / "keep_ptxas_log.sh"


def kept_log(tmp_path, log, status=0):
    """Runs the build's launcher on a compiler that says `log`: (how it ended, where the log is kept)."""
    compiler, said = tmp_path / "compiler", tmp_path / "said"
    said.write_text(log)
    compiler.write_text(f'#!/bin/sh\n[ "$6" = -Xptxas=-v ] || exit 9\ncat "{said}" >&2\nexit {status}\n')
    compiler.chmod(0o755)
    folder = tmp_path / "src/CMakeFiles/qlora_cuda_objects.dir/kernels/cuda"
    folder.mkdir(parents=True, exist_ok=True)
    command = [LAUNCHER, compiler, "-c", "fill.cu", "-o", folder / "fill.cu.o", "-g"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done, folder / "fill.cu.o.ptxas"


def test_the_log_of_a_build_is_kept_with_its_object(tmp_path):
    done, log = kept_log(tmp_path, LOG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and log.read_text() == LOG
    done, log = kept_log(tmp_path, "error: no such thing", status=3)
    assert done.returncode == 3 and "no such thing" in done.stderr
    assert log.read_text() == LOG, "as the object, which stays too"


def test_a_build_is_read_where_its_log_is_of_this_source_and_architecture(tmp_path):
    source = tmp_path / "fill.cu"
    source.write_text("__global__ void fill(float* out);")
    assert kernel_report.built_rows(tmp_path, source, "sm_90") is None
    kept_log(tmp_path, "nothing of ptxas in it")
    assert kernel_report.built_rows(tmp_path, source, "sm_90") is None
    kept_log(tmp_path, LOG)
    rows = kernel_report.built_rows(tmp_path, source, "sm_90")
    assert [(row.file, row.arch, row.usage) for row in rows] == [
        ("fill.cu", "sm_90", parse_usage(LOG)[name]) for name in ("_Z4copyPf", "_Z4fillPf", "slow_path")
    ]
    assert "not read" in table(rows) and len(faults(rows, [])) == 1
    assert kernel_report.built_rows(tmp_path, source, "sm_80") is None
    kept_log(tmp_path, LOG + LOG.replace("sm_90", "sm_80"))
    assert kernel_report.built_rows(tmp_path, source, "sm_90") is None
    _, log = kept_log(tmp_path, LOG)
    os.utime(source, (0, log.stat().st_mtime + 1))
    assert kernel_report.built_rows(tmp_path, source, "sm_90") is None


def test_architectures_and_flags_are_those_of_the_build():
    architectures, flags = kernel_report.build_settings()
    assert architectures == [f"sm_{number}" for number in (75, 80, 86, 89, 90, 100, 120)]
    assert {"-std=c++20", "-fmad=false", "-Werror=all-warnings"} <= set(flags)


def total_bytes(row):
    return [sum(size * count for size, count in counter.items()) for counter in (row.loads, row.stores)]


def test_machine_code_and_ptx_move_the_same_bytes_in_a_compiled_file():
    nvcc = kernel_report.find_nvcc()
    if not nvcc:
        pytest.skip("no nvcc on this machine")
    _, flags = kernel_report.build_settings()
    source = kernel_report.KERNELS / "dequantize_blockwise.cu"
    rows = kernel_report.compile_file((nvcc, None), flags, source, "sm_90")
    assert {row.kernel.partition("<")[0] for row in rows} == {"dequantize_groups"}
    assert all(row.usage.registers and row.loads and row.stores for row in rows)
    assert any(16 in row.stores for row in rows)
    if nvdisasm := kernel_report.find_nvdisasm():
        machine = kernel_report.compile_file((nvcc, nvdisasm), flags, source, "sm_90")
        assert [row[:4] for row in rows] == [row[:4] for row in machine]
        # The assembler may join narrow accesses: widths differ, bytes do not.
        assert [total_bytes(row) for row in rows] == [total_bytes(row) for row in machine]
