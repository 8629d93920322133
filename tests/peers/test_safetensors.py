"""Our safetensors reader and writer against the safetensors package.

QLORA_BIN names the folder with the programs; the tests fail without it.
"""

import json
import os
import pathlib
import random
import shutil
import struct
import subprocess

import numpy
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip


@pytest.fixture(scope="session")
def program():
    folder = os.environ.get("QLORA_BIN")
    assert folder, "set QLORA_BIN to the folder with the programs"
    path = pathlib.Path(folder) / "safetensors_check"
    assert path.is_file(), f"{path} has not been built"
    return str(path)


def check(program, files):
    run = subprocess.run([program, *map(str, files)], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == len(files)
    assert all(line == "ok" or line.startswith("refused: ") for line in lines)
    return lines


def rewrite(program, source, target, tracer=()):
    return subprocess.run([*tracer, program, "--rewrite", str(source), str(target)], capture_output=True, text=True)


def package_accepts(path):
    try:
        safetensors.deserialize(path.read_bytes())
        with safetensors.safe_open(path, framework="numpy") as opened:
            opened.keys()
        return True
    except Exception:  # the package raises types of several kinds, and panics through BaseException
        return False


def file_bytes(header, data):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + data


# ---------------------------------------------------------------------------------------------- mutated headers


def random_model(rng):
    """A valid header as a list of (key, value) and the number of data bytes."""
    entries, offset = [], 0
    if rng.random() < 0.5:
        entries.append(("__metadata__", {f"k{i}": rng.choice(["", "pt", "a b", "é"]) for i in range(rng.randint(0, 3))}))
    for i in range(rng.randint(0, 5)):
        dtype = rng.choice(list(DTYPES))
        shape = [rng.choice([0, 1, 1, 2, 3]) for _ in range(rng.randint(0, 3))]
        size = DTYPES[dtype] * int(numpy.prod(shape, dtype=int))
        name = rng.choice(["w", "model.layers.0.q_proj.weight", "é", "a/b", 'q"'])
        entries.append((name + str(i), {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}))
        offset += size
    rng.shuffle(entries)
    return entries, offset


VALUES = ["0", "1", "-1", "-0", "1.0", "1e0", "null", "true", "[]", "{}", '""', '"F32"', '"F4"', "[0,0]", "[[0]]",
          "18446744073709551615", "18446744073709551616", "9223372036854775808", "4294967296", "1e999",
          '"\\ud800"', '"\\u0000"', '{"a":"b"}', '"\\u0061"']  # fmt: skip


def to_json(entries):
    return "{" + ",".join(json.dumps(k, ensure_ascii=False) + ":" + json.dumps(v, ensure_ascii=False)
                          for k, v in entries) + "}"  # fmt: skip


def mutate_entries(rng, entries):
    """Changes what the header says; still JSON."""
    tensors = [v for k, v in entries if k != "__metadata__"]
    kind = rng.randrange(8)
    if kind == 0 and tensors:
        tensor = rng.choice(tensors)
        tensor["data_offsets"][rng.randrange(2)] += rng.choice([-8, -1, 1, 2, 8, 2**63, 2**64 - 1])
    elif kind == 1 and tensors:
        rng.choice(tensors)["dtype"] = rng.choice([*DTYPES, "F4", "C64", "F8_E8M0", "f32", ""])
    elif kind == 2 and tensors:
        shape = rng.choice(tensors)["shape"]
        shape.insert(rng.randint(0, len(shape)), rng.choice([0, 1, 2, -1, 2**31, 2**32, 2**63, 2**64]))
    elif kind == 3 and tensors:
        del rng.choice(tensors)[rng.choice(["dtype", "shape", "data_offsets"])]
    elif kind == 4 and tensors:
        rng.choice(tensors)[rng.choice(["name", "", "Dtype", "strides"])] = rng.choice([1, "x", None, [1]])
    elif kind == 5 and entries:
        entries.append(rng.choice(entries))
    elif kind == 6 and entries:
        entries.pop(rng.randrange(len(entries)))
    else:
        rng.shuffle(entries)  # harmless


def mutate_text(rng, text):
    """Changes the bytes of the header; seldom JSON afterwards."""
    raw = bytearray(text.encode())
    kind = rng.randrange(7)
    place = rng.randrange(len(raw))
    if kind == 0:
        raw[place] = rng.randrange(256)
    elif kind == 1:
        del raw[place : place + rng.randint(1, 4)]
    elif kind == 2:
        raw[place:place] = rng.choice([b" ", b"\n", b"\t", b"\0", b"\xff", b"\xc3\xa9", b"{", b"}", b"[", b"]", b'"',
                                       b",", b":", b"\\", b"0", b"-", b"\xef\xbb\xbf"])  # fmt: skip
    elif kind == 3:
        raw += rng.choice([b" ", b"        ", b"\n", b"\0", b"}", b"{}", b"\t \r\n"])
    elif kind == 4:
        raw[:0] = rng.choice([b" ", b"\n", b"\xef\xbb\xbf", b"[", b"\0"])
    elif kind == 5:  # replace one value
        spans = [i for i, c in enumerate(raw) if c in b"0123456789[\""]
        start = rng.choice(spans or [0])
        end = start + 1
        while end < len(raw) and raw[end] not in b",]}":
            end += 1
        raw[start:end] = rng.choice(VALUES).encode()
    else:
        a, b = sorted(rng.randrange(len(raw)) for _ in range(2))
        raw[place:place] = raw[a:b][:60]
    return bytes(raw)


def mutated_file(rng):
    entries, size = random_model(rng)
    if rng.random() < 0.55:
        mutate_entries(rng, entries)
    header = to_json(entries).encode()
    if rng.random() < 0.55:
        header = mutate_text(rng, header.decode())
    data = bytes(rng.randrange(256) for _ in range(size + rng.choice([0] * 8 + [-1, 1])))
    whole = bytearray(file_bytes(header, data))
    if rng.random() < 0.1:
        length = len(header) + rng.choice([-1, 1, 8, 10**8, 2**63, 2**64 - 1 - len(header)])
        whole[:8] = struct.pack("<Q", max(0, length) % 2**64)
    return bytes(whole)


def test_nothing_that_the_package_refuses_is_accepted(program, tmp_path):
    rng = random.Random(20_261_124)
    files = []
    for i in range(2000):
        files.append(tmp_path / f"{i}.safetensors")
        files[-1].write_bytes(mutated_file(rng))
    ours = [line == "ok" for line in check(program, files)]
    theirs = [package_accepts(file) for file in files]
    wrong = [file.read_bytes() for file, a, b in zip(files, ours, theirs) if a and not b]
    assert not wrong, f"{len(wrong)} accepted by us alone, the first: {wrong[0]}"
    both = sum(a and b for a, b in zip(ours, theirs))
    neither = sum(not a and not b for a, b in zip(ours, theirs))
    stricter = sum(b and not a for a, b in zip(ours, theirs))
    print(f"\naccepted by both {both}, refused by both {neither}, refused by us alone {stricter}")
    assert both >= 300 and neither >= 500 and stricter >= 20, "the mutations no longer reach all three kinds"


def test_accepted_files_are_understood_alike(program, tmp_path):
    """What both accept is written again by us and read back by the package: same tensors, same metadata."""
    rng = random.Random(7)
    compared = 0
    for i in range(60):
        entries, size = random_model(rng)
        source, target = tmp_path / f"{i}.in", tmp_path / f"{i}.out"
        source.write_bytes(file_bytes(to_json(entries), bytes(rng.randrange(256) for _ in range(size))))
        assert package_accepts(source)
        assert rewrite(program, source, target).returncode == 0
        before, after = (dict(safetensors.deserialize(file.read_bytes())) for file in (source, target))
        assert before == after
        metadata = dict(entries).get("__metadata__", {})
        with safetensors.safe_open(target, framework="numpy") as opened:
            assert (opened.metadata() or {}) == metadata
        compared += len(before)
    assert compared > 100


def test_cut_files_are_refused(program, tmp_path):
    tensors = {f"layers.{i}.weight": numpy.random.default_rng(i).random((16, 9), numpy.float32) for i in range(20)}
    whole = safetensors.numpy.save(tensors, {"format": "np"})
    files = []
    for i in range(200):
        files.append(tmp_path / f"{i}.safetensors")
        files[-1].write_bytes(whole[: len(whole) * i // 200])
    assert all(line.startswith(f"refused: {file}: ") for line, file in zip(check(program, files), files))


# ------------------------------------------------------------------------------------------- byte-equal writing


def torch_tensors():
    generator = torch.Generator().manual_seed(3)
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.int32,
             torch.uint32, torch.float32, torch.float64, torch.int64, torch.uint64, torch.float8_e4m3fn,
             torch.float8_e5m2]  # fmt: skip
    tensors = {}
    for i, kind in enumerate(kinds):
        raw = torch.randint(0, 2 if kind == torch.bool else 256, (3, 8, 5), generator=generator, dtype=torch.uint8)
        tensors[f"z{i % 4}.{i}.weight"] = raw.view(-1, 8).contiguous().view(kind).clone()
        tensors[f"empty.{i}"] = torch.zeros((0, 4), dtype=kind)
        tensors[f"Scalar.{i}"] = torch.zeros((), dtype=kind)
    return tensors


NAMES = ["b", "a", "B", "é", "a.b", "a-b", "a" * 300, 'quote"', "back\\slash", "line\nend", "\x01", "\x7f", "€", "😀", "",
         "__metadata", "0", "10", "9", "/", "tab\t", "bell\x07", "form\x0c", "\x1f"]  # fmt: skip


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {'k"\n\x01é': "v\\ \t\x7f €"}, {"": ""}])
@pytest.mark.parametrize("kind", ["every dtype", "names", "none", "many"])
def test_written_files_have_the_bytes_of_the_package(program, tmp_path, kind, metadata):
    theirs = tmp_path / "theirs.safetensors"
    if kind == "every dtype":
        safetensors.torch.save_file(torch_tensors(), theirs, metadata)
    else:
        rng = numpy.random.default_rng(5)
        names = {"names": NAMES, "none": [], "many": [f"model.layers.{i}.w" for i in range(500)]}[kind]
        dtypes = [numpy.float32, numpy.uint8, numpy.float16, numpy.int64, numpy.float64, numpy.uint64, numpy.bool_]
        tensors = {name: rng.random((i % 4, 2)).astype(dtypes[i % len(dtypes)]) for i, name in enumerate(names)}
        safetensors.numpy.save_file(tensors, theirs, metadata)
    assert check(program, [theirs]) == ["ok"]

    # From a file in another order, so that the order of the bytes is ours to find.
    header_size = struct.unpack("<Q", theirs.read_bytes()[:8])[0]
    header = json.loads(theirs.read_bytes()[8 : 8 + header_size])
    body = theirs.read_bytes()[8 + header_size :]
    shuffled, data = {}, b""
    names = [name for name in header if name != "__metadata__"]
    random.Random(1).shuffle(names)
    for name in names:
        begin, end = header[name]["data_offsets"]
        shuffled[name] = {**header[name], "data_offsets": [len(data), len(data) + end - begin]}
        data += body[begin:end]
    if metadata:
        shuffled["__metadata__"] = metadata
    source, ours = tmp_path / "source", tmp_path / "ours.safetensors"
    source.write_bytes(file_bytes(json.dumps(shuffled), data))
    run = rewrite(program, source, ours)
    assert run.returncode == 0, run.stdout
    assert ours.read_bytes() == theirs.read_bytes()


def test_several_metadata_keys_are_written_sorted(program, tmp_path):
    """The package writes them in the order of a hash table, another one in each process: only the order differs."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    metadata = {key: key * 2 for key in ["format", "b", "a", "z", "é"]}
    safetensors.numpy.save_file({"w": numpy.arange(7, dtype=numpy.int16)}, theirs, metadata)
    assert rewrite(program, theirs, ours).returncode == 0
    a, b = theirs.read_bytes(), ours.read_bytes()
    size = struct.unpack("<Q", a[:8])[0]
    assert a[:8] == b[:8] and a[8 + size :] == b[8 + size :]
    assert json.loads(a[8 : 8 + size]) == json.loads(b[8 : 8 + size])
    assert list(json.loads(b[8 : 8 + size])["__metadata__"]) == sorted(metadata)


# ------------------------------------------------------------------------------------------------ injected faults


@pytest.fixture
def swap(tmp_path):
    """A source that takes several write calls (the header with the small tensor, then the large ones), and a folder
    whose file is to be replaced."""
    assert shutil.which("strace"), "the fault tests need strace"
    source = tmp_path / "source"
    tensors = {f"w{i}": numpy.random.default_rng(i).random(150_000, numpy.float32) for i in range(4)}
    tensors["small"] = numpy.zeros(3, numpy.float32)
    safetensors.numpy.save_file(tensors, source)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out").write_bytes(b"old")
    return source, folder


def inject(call, fault, n):
    return ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={n}"]


# How many of each call a rewrite makes; one fault is injected into each in turn.
CALLS = {"write": 5, "fsync": 2, "rename": 1}


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO"])
def test_failing_calls_are_told_and_lose_nothing(program, swap, error):
    source, folder = swap
    failed = dict.fromkeys(CALLS, 0)
    for call in CALLS:
        for n in range(1, 40):
            (folder / "out").write_bytes(b"old")
            run = rewrite(program, source, folder / "out", inject(call, f"error={error}", n))
            if run.returncode == 0:  # not reached any more
                break
            failed[call] += 1
            assert run.returncode == 4, run  # out of disk, or a disk that fails
            assert run.stdout.startswith(f"refused: {folder}"), run
            # After the rename only the folder's own sync can fail: then the new file is there, whole.
            renamed = call == "fsync" and n == 2
            if error != "EIO":
                assert " free" in run.stdout
                assert renamed or " bytes needed" in run.stdout
            assert (folder / "out").read_bytes() == (source.read_bytes() if renamed else b"old")
            assert os.listdir(folder) == ["out"]
    assert failed == CALLS


@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new_file(program, swap, call):
    source, folder = swap
    kills = 0
    for n in range(1, 40):
        (folder / "out").write_bytes(b"old")
        run = rewrite(program, source, folder / "out", inject(call, "signal=KILL", n))
        if run.returncode == 0:
            break
        kills += 1
        assert (folder / "out").read_bytes() in (b"old", source.read_bytes())
        for left in folder.glob(".tmp-*"):
            left.unlink()
        assert os.listdir(folder) == ["out"]
    assert kills == CALLS[call]


def test_interrupted_writes_are_repeated(program, swap):
    source, folder = swap
    for n in range(1, CALLS["write"] + 1):
        run = rewrite(program, source, folder / "out", inject("write", "error=EINTR", n))
        assert run.returncode == 0, run
        assert (folder / "out").read_bytes() == source.read_bytes()
