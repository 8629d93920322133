"""Rows out of files: Parquet as pyarrow reads it, tables as Python's csv module does, whatever wrote them; hostile files end
in a sentence; and the programs give the same result for the same rows in any kind of file."""

import base64
import csv
import datetime
import decimal
import gzip
import io
import json
import random
import subprocess

import pytest


@pytest.fixture(scope="module")
def pa():
    import pyarrow
    import pyarrow.parquet  # noqa: F401

    return pyarrow


def read(bin_dir, *paths):
    """What file_rows prints for the files: name -> (rows, hash or the error); a row is (line, value or the fault's text)."""
    run = subprocess.run([bin_dir / "file_rows", *map(str, paths)], capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr.decode()
    out = {}
    *lines, _peak = map(json.loads, run.stdout.decode().splitlines())
    for line in lines:
        rows, ends = out.setdefault(line["file"], ([], []))
        if "hash" in line or "error" in line:
            ends.append(line.get("hash") or line["error"])
        else:
            rows.append((line["line"], json.loads(line["row"]) if "row" in line else line["fault"]))
    return {name: (rows, ends[0]) for name, (rows, ends) in out.items()}


def values(bin_dir, path):
    return [value for _, value in read(bin_dir, path)[path.name][0]]


def present(value):
    """Without the nulls of structs and rows: Arrow fills them in where another element of the column has the field. A turn's
    content stays; no other field of these rows has the name."""
    if isinstance(value, dict):
        return {name: present(inner) for name, inner in value.items() if inner is not None or name == "content"}
    return [present(inner) for inner in value] if isinstance(value, list) else value


def chat_schema(pa, text):
    call = pa.struct([("name", text), ("arguments", text)])
    message = pa.struct([("role", pa.dictionary(pa.int32(), pa.string())), ("content", text), ("tool_calls", pa.list_(call))])
    return pa.schema([("messages", pa.list_(message)), ("n", pa.int64()), ("score", pa.float32()), ("good", pa.bool_()),
                      ("source", pa.dictionary(pa.int8(), pa.string())), ("nothing", pa.null()), ("text", text)])


def chat_rows(count):
    rng = random.Random(3)
    letters = 'ab "\\\n\r\t\x00\x01\x1f\x7fé안🙂'.replace("\x00", "")
    text = lambda: "".join(rng.choice(letters) for _ in range(rng.randrange(40)))  # noqa: E731
    return [{"messages": [{"role": "user", "content": text(), "tool_calls": None},
                          {"role": "assistant", "content": None if i % 3 else text(),
                           "tool_calls": [{"name": "f", "arguments": "{}"}] * (i % 3)}] * (i % 4),
             "n": None if i % 5 == 0 else i - 50, "score": i / 7, "good": i % 2 == 0, "source": f"s{i % 3}", "nothing": None,
             "text": None if i % 7 == 0 else text()} for i in range(count)]


@pytest.mark.parametrize("large", [False, True], ids=["string", "large_string"])
def test_parquet_rows_are_those_of_pyarrow(bin_dir, pa, tmp_path, large):
    rows = chat_rows(2500)
    table = pa.Table.from_pylist(rows, schema=chat_schema(pa, pa.large_string() if large else pa.string()))
    expected = [present(row) for row in table.to_pylist()]
    # A write per codec, each with other settings; 30-row groups lie across batches, 2500 in one need several.
    for codec, group, options in (("snappy", 30, {}), ("zstd", 1000, {"data_page_version": "2.0"}), ("gzip", 2500, {"use_dictionary": False}),
                                  ("none", 1024, {"write_page_checksum": True}), ("lz4", 999, {"store_schema": False}),
                                  ("brotli", 2500, {"data_page_size": 100, "write_page_index": True})):
        path = tmp_path / f"{codec}.parquet"
        pa.parquet.write_table(table, path, compression=codec, row_group_size=group, **options)
        lines, end = read(bin_dir, path)[path.name]
        assert [line for line, _ in lines] == list(range(1, 2501)), end
        assert [value for _, value in lines] == expected, codec


def test_each_kind_of_column_has_a_value_in_json(bin_dir, pa, tmp_path):
    nested = pa.struct([("a", pa.list_(pa.list_(pa.int32()))), ("b", pa.struct([("c", pa.string())]))])
    columns = {
        "i8": (pa.int8(), -128, -128), "u64": (pa.uint64(), 2**64 - 1, 2**64 - 1), "i64": (pa.int64(), -(2**63), -(2**63)),
        "half": (pa.float16(), 0.5, 0.5), "float": (pa.float32(), 0.1, 0.10000000149011612), "double": (pa.float64(), 1e300, 1e300),
        "whole": (pa.float64(), 3.0, 3.0), "nan": (pa.float64(), float("nan"), None), "infinite": (pa.float64(), float("-inf"), "-Infinity"),
        "binary": (pa.binary(), "é".encode(), "é"), "fixed": (pa.binary(2), b"ab", "ab"), "large": (pa.large_binary(), b"x", "x"),
        "view": (pa.string_view(), "v", "v"), "list": (pa.list_(pa.string()), ["a", None], ["a", None]),
        "large_list": (pa.large_list(pa.int64()), [1], [1]), "fixed_list": (pa.list_(pa.int64(), 2), [1, 2], [1, 2]),
        "nested": (nested, {"a": [[1], []], "b": {"c": None}}, {"a": [[1], []], "b": {}}),
        "map": (pa.map_(pa.string(), pa.int64()), [("k", 1), ("l", None)], {"k": 1, "l": None}),
        "date": (pa.date32(), datetime.date(2020, 1, 2), "2020-01-02"), "decimal": (pa.decimal128(5, 2), decimal.Decimal("1.50"), "1.50"),
        "json": (pa.json_(), '{"z": [1, null], "a": 1.0}', {"z": [1, None], "a": 1.0}), "json_null": (pa.json_(), "null", None),
        "tools": (pa.string(), '[{"type": "function"}]', '[{"type": "function"}]'),
        "prompt": (pa.string(), '[{"role": "user"}]', [{"role": "user"}]), "completion": (pa.string(), "[1]", "[1]"),
    }
    arrays = [pa.array([value], pa.json_().storage_type).cast(kind) if str(kind).startswith("extension") else pa.array([value], kind)
              for kind, value, _ in columns.values()]
    path = tmp_path / "kinds.parquet"
    pa.parquet.write_table(pa.Table.from_arrays(arrays, list(columns)), path)
    expected = {name: value for name, (_, _, value) in columns.items() if value is not None}
    [row] = values(bin_dir, path)
    assert row == expected
    assert list(row) == list(expected)  # in the order of the columns
    assert isinstance(row["whole"], float)


def test_a_damaged_value_costs_its_row_alone(bin_dir, pa, tmp_path):
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"a\xff", b"end"], pa.binary()).buffers())
    columns = {"utf8": text, "binary": pa.array([b"ok", b"ok", b"\xc3"], pa.binary())}
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.Table.from_arrays(list(columns.values()), list(columns)), path)
    rows, _ = read(bin_dir, path)[path.name]
    assert rows[0] == (1, {"utf8": "ok", "binary": "ok"})
    assert rows[1][0] == 2 and "a value is damaged" in rows[1][1]
    assert rows[2] == (3, '"binary" holds bytes that are not UTF-8 text; leave the column out')


def test_two_columns_of_one_name_are_refused(bin_dir, pa, tmp_path):
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, ["a", "a"]), path)
    assert "two columns named \"a\"" in read(bin_dir, path)[path.name][1]


def test_nulls_that_arrow_adds_to_the_arguments_of_tools_are_left_out(bin_dir, pa, tmp_path):
    """As TRL leaves them out: of objects at any depth, not of lists. A turn's own content stays, null or not."""
    rows = [{"prompt": '[{"role": "user", "content": "q"}]', "messages": [
                {"role": "assistant", "content": None, "tool_calls": [
                    {"name": "mail", "arguments": {"content": "hello", "to": {"name": "a", "role": "x"}, "prompt": "p"}},
                    {"name": "add", "arguments": {"a": 1, "tags": [{"b": 2}, None, {"content": "c"}], "prompt": "[1]"}}]}]}]  # fmt: skip
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    expected = json.loads(json.dumps(rows))
    expected[0]["prompt"] = [{"role": "user", "content": "q"}]
    assert values(bin_dir, tmp_path / "rows.parquet") == expected
    # In JSON that somebody wrote, a null stays.
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"tool_calls": [{"arguments": {"a": null}}]}]}\n')
    assert values(bin_dir, tmp_path / "rows.jsonl")[0]["messages"][0]["tool_calls"][0]["arguments"] == {"a": None}


def test_columns_that_are_renamed_hold_messages_too(bin_dir, pa, tiny_model, tmp_path):
    user, assistant = ([{"role": role, "content": f'{role} "[x]"'}] for role in ("user", "assistant"))
    cases = [({"prompt": "question", "completion": "answer"}, {"prompt": user, "completion": assistant}),
             ({"messages": "chat"}, {"messages": user + assistant}),
             ({"prompt": "question", "completion": "answer"}, {"prompt": "[not json", "completion": '["a"]'})]  # fmt: skip
    for columns, row in cases:
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        cells = {columns[name]: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        with (tmp_path / "rows.csv").open("w", newline="") as file:
            csv.writer(file).writerows([cells.keys(), cells.values()])
        pa.parquet.write_table(pa.Table.from_pylist([cells]), tmp_path / "rows.parquet")
        ids = []
        for name, settings in (("rows.jsonl", {}), ("rows.csv", {"columns": columns}), ("rows.parquet", {"columns": columns})):
            command = [bin_dir / "render_rows", "--model", tiny_model(), "--data", tmp_path / name, "--settings", json.dumps(settings)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            ids.append([json.loads(done.stdout.splitlines()[0])[key] for key in ("ids", "supervised")])
        assert ids[0] == ids[1] == ids[2], columns


def test_cut_and_changed_parquet_files_end_in_one_sentence(bin_dir, pa, tmp_path):
    table = pa.Table.from_pylist(chat_rows(60), schema=chat_schema(pa, pa.string()))
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink, compression="zstd", row_group_size=20)
    whole = sink.getvalue()
    rng = random.Random(5)
    for i in range(60):
        (tmp_path / f"cut{i}.parquet").write_bytes(whole[:4 + (len(whole) - 5) * i // 60])
        # The magic at both ends stays: what lies between must be looked at.
        (tmp_path / f"hole{i}.parquet").write_bytes(whole[:-9 - rng.randrange(len(whole) - 20)] + whole[-8:])
    for i in range(400):
        changed = bytearray(whole)
        begin = len(whole) - 2500 if i % 2 else 4  # the table of contents, or anywhere
        for _ in range(1 + i % 3):
            changed[rng.randrange(begin, len(whole) - 4)] = rng.randrange(256)
        (tmp_path / f"changed{i}.parquet").write_bytes(changed)
    outcomes = read(bin_dir, tmp_path)
    assert len(outcomes) == 520
    for name, (rows, end) in outcomes.items():
        assert "\n" not in end and len(end) < 1000, name
        if name.startswith("cut"):
            assert "seems to be cut" in end and not rows, name
        if name.startswith("hole"):
            assert "the Parquet file cannot be read" in end and "download or copy it again" in end, name
    assert sum("cannot be read" in end for name, (_, end) in outcomes.items() if name.startswith("changed")) > 100


def test_a_parquet_file_that_cannot_be_read_says_what_to_do(bin_dir, pa, tmp_path):
    table = pa.table({"text": ["a" * 100, "b" * 100]})

    def kms(_):
        return type("Kms", (pa.parquet.encryption.KmsClient,), {
            "wrap_key": lambda self, key, _: base64.b64encode(key).decode(),
            "unwrap_key": lambda self, wrapped, _: base64.b64decode(wrapped)})()  # fmt: skip

    import pyarrow.parquet.encryption as encryption

    for name, settings in (("footer", {"uniform_encryption": True}), ("column", {"plaintext_footer": True, "column_keys": {"c": ["text"]}})):
        properties = encryption.CryptoFactory(kms).file_encryption_properties(
            encryption.KmsConnectionConfig(), encryption.EncryptionConfiguration(footer_key="k", **settings))  # fmt: skip
        with pa.parquet.ParquetWriter(tmp_path / f"{name}.parquet", table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink, compression="snappy", store_schema=False)
    whole = bytearray(sink.getvalue())
    # In the table of contents: field "codec", snappy; 6 spells LZO.
    whole[whole.index(b"\x15\x02", len(whole) - 8 - int.from_bytes(whole[-8:-4], "little") + 40) + 1] = 6
    (tmp_path / "lzo.parquet").write_bytes(whole)
    said = {name: end for name, (_, end) in read(bin_dir, tmp_path).items()}
    assert said["footer.parquet"] == f"{tmp_path}/footer.parquet: is an encrypted Parquet file; save it without encryption"
    assert said["column.parquet"].endswith("it is encrypted: save it without encryption")
    assert "LZO" in said["lzo.parquet"] and said["lzo.parquet"].endswith("compressed by snappy, zstd or gzip")


def test_a_parquet_file_is_read_in_bounded_memory(bin_dir, pa, tmp_path):
    path = tmp_path / "rows.parquet"
    schema = pa.schema([("text", pa.string())])
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in range(8):
            writer.write_table(pa.Table.from_pylist([{"text": f"{group}{i}" + "x" * 4000} for i in range(5000)], schema=schema))
    run = subprocess.run([bin_dir / "file_rows", path], stdout=subprocess.PIPE, check=True)
    peak = json.loads(run.stdout[run.stdout.rindex(b"\n", 0, -1):])["peak_mib"]
    assert peak < 110  # 160 MB of text, 20 in each row group; Arrow's libraries take 35


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(bin_dir, pa, tmp_path):
    """256 rows are read at a time, each the one entry of a dictionary: 2.5 GB out of a few KB."""
    table = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int32()), pa.array(["x" * 10_000_000]))})
    path = tmp_path / "bomb.parquet"
    pa.parquet.write_table(table, path, compression="zstd", store_schema=False)  # strings, whatever the table was
    rows, said = read(bin_dir, path)[path.name]
    assert not rows and said == f"{path}: the Parquet file cannot be read: it unpacks to more than 1 GiB at a time"


def csv_rows(text, delimiter):
    """What the csv module reads, as qlora promises it: blank lines passed over, an empty cell absent."""
    table = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row and any(map(str.strip, row))]
    return [{name: cell for name, cell in zip(table[0], row, strict=True) if cell} for row in table[1:]]


def test_tables_are_read_as_by_the_csv_module(bin_dir, tmp_path):
    rng = random.Random(11)
    expected = {}
    for number in range(50):
        delimiter, ending = rng.choice(((",", "csv"), (";", "csv"), ("\t", "tsv")))
        columns = rng.randrange(2, 6)
        quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
        letters = 'aé안 "\n,;\t|' + ("" if quoting == csv.QUOTE_MINIMAL else "\r")  # which that leaves unquoted
        cells = lambda: "".join(rng.choice(letters) for _ in range(rng.randrange(12))) or "x"  # noqa: E731
        sink = io.StringIO(newline="")
        writer = csv.writer(sink, delimiter=delimiter, lineterminator=rng.choice(("\n", "\r\n")), quoting=quoting)
        writer.writerow([f"{i} {cells()}" if rng.random() < 0.5 else f"name{i}" for i in range(columns)])
        for _ in range(20):
            writer.writerow([cells() if rng.random() < 0.8 else "" for _ in range(columns - 1)] + ["end"])
            if rng.random() < 0.1:
                sink.write("\n")
        text = sink.getvalue()
        path = tmp_path / f"{number}.{ending}{rng.choice(('', '.gz'))}"
        raw = rng.choice((b"", b"\xef\xbb\xbf")) + text.encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
        expected[path.name] = csv_rows(text, delimiter)
    outcomes = read(bin_dir, tmp_path)
    assert set(outcomes) == set(expected)
    for name, rows in expected.items():
        assert [value for _, value in outcomes[name][0]] == rows, name


def evaluate(bin_dir, model, data, code=0):
    run = subprocess.run([bin_dir / "qlora-eval", "--model", model, "--template", "chatml", "--data", data], capture_output=True,
                         text=True, timeout=120)
    assert run.returncode == code, run.stderr
    return {k: v for k, v in json.loads(run.stdout).items() if "second" not in k} if code == 0 else run.stderr


def test_the_programs_read_any_kind_of_file(bin_dir, pa, tiny_model, tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"{i}, \"{i}\"?"}, {"role": "assistant", "content": f"It's\n{i}."}]}
            for i in range(6)]
    folder = tmp_path / "parts"
    folder.mkdir()
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["messages"], *([json.dumps(row["messages"])] for row in rows)])
    (folder / "1.jsonl").write_text("".join(lines[:2]))
    (folder / "2.jsonl.gz").write_bytes(gzip.compress("".join(lines[2:4]).encode()))
    (folder / "3.jsonl").write_text("".join(lines[4:]))
    subprocess.run(["zstd", "--quiet", "--rm", folder / "3.jsonl"], check=True)
    model = tiny_model(tie=True)
    first = evaluate(bin_dir, model, tmp_path / "rows.jsonl")
    for data in (tmp_path / "rows.parquet", tmp_path / "rows.csv", folder, folder / "*.jsonl*"):
        assert evaluate(bin_dir, model, data) == first, data
    with (tmp_path / "python.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [str(rows[0]["messages"])]])
    said = evaluate(bin_dir, model, tmp_path / "python.csv", code=2)
    assert "python.csv:2: \"messages\" must be a list or the JSON text of one" in said and "json.dumps()" in said
    said = evaluate(bin_dir, model, tmp_path / "none" / "*.csv", code=2)
    assert f"the pattern {tmp_path}/none/*.csv matches no file" in said


def test_held_out_rows_must_not_lie_among_the_training_files(bin_dir, root, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    # Hidden by a folder, or named alike: one sentence each.
    for train, words in ((tmp_path, f"{tmp_path}/b.jsonl is one of the files that data.train names"),
                         (tmp_path / "b.jsonl", "is a training file too")):
        run = subprocess.run([bin_dir / "qlora-train", "--config", root / "configs" / "smoke.json", "--dry-run", "--set",
                              f"data.train={train}", "--set", f"data.eval={tmp_path}/b.jsonl"], capture_output=True, text=True,
                             timeout=60)
        assert run.returncode == 2
        assert words in run.stderr and run.stderr.count("data.eval") == 1, run.stderr
