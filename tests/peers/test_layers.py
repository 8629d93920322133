"""The layers of the sources: the tree keeps to them, and each kind of fault is named by file and line."""

import subprocess
import sys

import pytest

from check_layers import faults_of

CLEAN = {
    "include/qlora/core/error.h": "#pragma once\n#include <string>\n",
    "include/qlora/kernels/codebook.h": "#pragma once\n",
    "include/qlora/kernels/kernels.h": '#pragma once\n#include "qlora/kernels/codebook.h"\n',
    "include/qlora/io/checkpoint.h": '#pragma once\n#include "qlora/core/error.h"\n',
    "include/qlora/ops/linear.h": "#pragma once\n#include <ATen/core/Tensor.h>\n",
    "include/qlora/models/decoder_spec.h": '#pragma once\n#include "qlora/io/checkpoint.h"\n',
    "include/qlora/data/batch.h": '#pragma once\n#include "qlora/kernels/codebook.h"\n',
    "src/io/checkpoint.cpp": '#include "qlora/io/checkpoint.h"\n#include "shards.h"\n',
    "src/io/shards.h": "#pragma once\n",
    "src/train/trainer.cpp": '#include "qlora/ops/linear.h"\n#include "qlora/data/batch.h"\n',
}


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_the_project_keeps_to_its_layers(root):
    result = subprocess.run(
        [sys.executable, root / "scripts" / "check_layers.py"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
    assert "files keep to the layers" in result.stdout


def test_a_clean_tree_has_no_faults(tmp_path):
    count, faults = faults_of(write(tmp_path, CLEAN))
    assert (count, faults) == (len(CLEAN), [])


@pytest.mark.parametrize(
    "path, text, place, words",
    [
        ("src/core/json.cpp", '\n#include "qlora/io/checkpoint.h"\n', ":2:", "higher layer"),
        ("src/core/json.cpp", "#include <qlora/io/checkpoint.h>\n", ":1:", "higher layer"),
        ("include/qlora/tokenizer/tokenizer.h", '#include "qlora/io/checkpoint.h"\n', ":1:", "side by side"),
        ("src/kernels/cpu/matmul.cpp", '#include "qlora/core/error.h"\n', ":1:", "nothing of the project"),
        ("src/kernels/cuda/matmul.cu", '#include "qlora/core/error.h"\n', ":1:", "nothing of the project"),
        ("src/data/rows.cpp", '#include "qlora/io/checkpoint.h"\n', ":1:", "not io"),
        ("src/data/rows.cpp", '#include "qlora/kernels/kernels.h"\n', ":1:", "header-only math"),
        ("src/io/reader.cpp", "// a comment\n#include <c10/util/Half.h>\n", ":2:", "is torch-free"),
        (
            "src/models/decoder_spec.cpp",
            '#include "qlora/ops/linear.h"\n',
            ":1:",
            "linear.h -> ATen/core/Tensor.h",
        ),
        ("src/train/lr_scheduler.cpp", "#include <torch/torch.h>\n", ":1:", "torch-free by promise"),
        ("src/quant/load.cpp", '#include "../io/shards.h"\n', ":1:", "private to io"),
        ("include/qlora/io/public.h", '#include "io/shards.h"\n', ":1:", "private to io"),
        ("src/plugins/x.cpp", "\n", ":1:", "not in the table"),
        ("src/io/gone.cpp", '#include "qlora/core/gone.h"\n', ":1:", "there is no file qlora/core/gone.h"),
        ("src/io/shards.h", '#include "shards.h"\n', ":1:", "in a circle"),
    ],
)
def test_a_fault_is_named_by_file_and_line(tmp_path, path, text, place, words):
    _, faults = faults_of(write(tmp_path, {**CLEAN, path: text}))
    assert len(faults) == 1
    assert faults[0].startswith(path + place)
    assert words in faults[0]


def test_a_circle_of_several_files_is_found(tmp_path):
    circle = {f"include/qlora/core/{a}.h": f'#include "qlora/core/{b}.h"\n' for a, b in ("xy", "yz", "zx")}
    _, faults = faults_of(write(tmp_path, {**CLEAN, **circle}))
    assert len(faults) == 1
    assert "x.h -> include/qlora/core/y.h -> include/qlora/core/z.h -> include/qlora/core/x.h" in faults[0]


def test_the_program_exits_1_and_prints_the_fault(root, tmp_path):
    write(tmp_path, {**CLEAN, "src/core/json.cpp": '#include "qlora/io/checkpoint.h"\n'})
    result = subprocess.run(
        [sys.executable, root / "scripts" / "check_layers.py", tmp_path], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stdout.startswith("src/core/json.cpp:1: core may not include io")


def test_an_empty_tree_is_a_fault(root, tmp_path):
    result = subprocess.run(
        [sys.executable, root / "scripts" / "check_layers.py", tmp_path], capture_output=True
    )
    assert result.returncode == 1
