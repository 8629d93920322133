"""scripts/bench.py: operations counted by hand, its report, and a run on a tiny model.

Nothing here judges a time.
"""

import json
import subprocess
import sys

import pytest

STRETCH = [
    "goal",
    "stretch",
    "reached",
    "stretch_reached",
    "value",
    "rival",
    "what",
    "cell",
    "at_most",
]


@pytest.fixture(scope="module", autouse=True)
def bench_folder(root):
    sys.path.insert(0, str(root / "bench"))
    yield
    sys.path.remove(str(root / "bench"))


@pytest.fixture
def small_shape():
    from limits import ModelShape

    # 2 layers; q and o 8 x 8, k and v 8 x 4, gate, up and down 8 x 16: 64 + 32 + 32 + 64 + 3 * 128
    # = 576 weights a layer.
    return ModelShape(
        hidden=8, intermediate=16, layers=2, heads=2, kv_heads=1, head_dim=4, vocab=10
    )


def test_parameters_of_a_small_shape(small_shape):
    assert small_shape.linear_parameters() == 2 * 576
    assert small_shape.head_parameters() == 80
    # Rank 3: inputs + outputs are 16 + 12 + 12 + 16 + 3 * 24 = 128 a layer.
    assert small_shape.adapter_parameters(3) == 2 * 3 * 128


def test_training_operations_by_hand(small_shape):
    from limits import training_flops

    # Rows of 3 and 5 tokens, 4 of them supervised: linears 4 * 1152 * 8, head 4 * 80 * 4,
    # attention 3 * (2 * 8 wide * 2 layers * (9 + 25)), adapters 6 * 768 * 8.
    assert training_flops(small_shape, 3, [3, 5], 4) == 36864 + 1280 + 3264 + 36864


def test_evaluation_operations_by_hand(small_shape):
    from limits import evaluation_flops

    assert evaluation_flops(small_shape, [3, 5], 4) == 18432 + 640 + 1088


def test_operations_of_smollm2_for_each_token():
    """Rows of 256 tokens that all have a loss: 424.7 + 113.2 + 26.5 + 29.3 million a token."""
    from limits import ModelShape, training_flops

    shape = ModelShape(
        hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, head_dim=64, vocab=49152
    )
    assert shape.linear_parameters() == 106168320
    assert shape.adapter_parameters(16) == 4884480
    assert training_flops(shape, 16, [256] * 4, 1024) / 1024 == pytest.approx(593.77e6, rel=1e-4)


def entrant(name, ours=False, holds=True, **values):
    return {"name": name, "ours": ours, "parity": {"holds": holds}, "share_of_limit": 0.8, **values}


def test_a_goal_is_measured_against_the_best_peer_that_counts():
    import goals

    cell = {
        "cell": "C1",
        "entrants": [
            entrant("ours", ours=True, useful_tokens_per_second=300.0, peak_rss=5),
            entrant("plain loop", useful_tokens_per_second=100.0, peak_rss=20),
            entrant("plain loop, jemalloc", useful_tokens_per_second=200.0, peak_rss=10),
            entrant("wrong but fast", holds=False, useful_tokens_per_second=900.0, peak_rss=1),
        ],
    }
    found = {goal["what"]: goal for goal in goals.judged([cell])}
    rate = found["useful tokens/s against the best peer"]
    assert (rate["rival"], rate["value"]) == ("plain loop, jemalloc", 1.5)
    assert rate["reached"] and not rate["stretch_reached"]
    memory = found["peak RSS as a share of the jemalloc loop's"]
    assert memory["value"] == 0.5 and memory["reached"] and memory["stretch_reached"]
    share = found["share of the GEMM rate"]
    assert share["reached"] and not share["stretch_reached"]


def test_a_goal_without_a_peer_is_not_reached():
    import goals
    import report

    cell = {"cell": "C2", "entrants": [entrant("ours", ours=True, useful_tokens_per_second=300.0)]}
    (goal,) = goals.judged([cell])
    assert goal["value"] is None and not goal["reached"]
    assert "not measured" in "\n".join(report.goal_table([goal]))


def test_a_goal_whose_only_peer_has_other_losses_says_so():
    import goals
    import report

    ours = entrant("ours", ours=True, useful_tokens_per_second=300.0)
    other = entrant("trl, default", holds=False, useful_tokens_per_second=70.0)
    found = {goal["what"]: goal for goal in goals.judged([{"cell": "C3", "entrants": [ours, other]}])}
    goal = found["useful tokens/s against trl default"]
    assert goal["value"] is None and not goal["reached"]
    assert "trl, default: its losses differ | - |" in (line := report.goal_table([goal])[-1])
    assert "does not count" in line


def test_a_larger_model_is_judged_by_memory_and_by_its_share_against_c1():
    import goals
    import report

    def cell(name, **figures):
        return {"cell": name, "entrants": [entrant("ours", ours=True, **figures)]}

    large = cell("C7", peak_rss=5.0e9, share_of_limit=0.6)
    memory, share = goals.judged([large])
    assert memory["reached"] and share["value"] is None and not share["reached"]
    *_, memory, share = goals.judged([cell("C1", share_of_limit=0.9), large])
    assert share["value"] == pytest.approx(0.6 / 0.9) and not share["reached"]
    large["entrants"][0]["peak_rss"] = 6.1e9
    assert not goals.judged([large])[0]["reached"]
    assert "stretch |" not in report.goal_table([memory])[-1]


@pytest.fixture(scope="module")
def bench(root, tiny_model, bin_dir, tmp_path_factory):
    """Runs the script on a tiny model into one folder: our main entrant alone, on one thread."""
    output = tmp_path_factory.mktemp("bench")
    fixed = [sys.executable, "-B", root / "scripts" / "bench.py", "--device", "cpu", "--quick"]
    fixed += ["--skip-peers", "--only", "ours", "--threads", "1", "--template", "chatml"]
    fixed += ["--model", tiny_model(tie=True), "--output", output]

    def run(*flags):
        return subprocess.run([*fixed, *flags], capture_output=True, text=True, timeout=600)

    run.output = output
    return run


@pytest.fixture(scope="module")
def results(bench):
    """All kinds of cells."""
    output = bench.output
    done = bench("--cells", "C2,C5,C6", "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (output / "results.md").read_text() + "\n"
    return json.loads((output / "results.json").read_text()), done.stdout


def test_results_say_where_and_with_what(results):
    found, _ = results
    machine = found["machine"]
    assert machine["processor"] and machine["cores"] >= 1 and machine["memory_bytes"] > 1e8
    assert machine["versions"]["torch"] and machine["program"].startswith("qlora-train")
    assert found["settings"]["threads"] == 1 and found["settings"]["quick"]
    assert found["baseline_rss"] > 1e7
    assert [cell["cell"] for cell in found["cells"]] == ["C2", "C5", "C6"]
    assert all(set(STRETCH) == set(goal) for goal in found["goals"])


def test_a_training_cell_reports_every_figure(results):
    (ours,) = results[0]["cells"][0]["entrants"]
    assert ours["name"] == "ours" and len(ours["blocks"]) == 2
    for key in (
        "useful_tokens_per_second",
        "supervised_tokens_per_second",
        "share_of_limit",
        "peak_rss",
        "first_step_seconds",
    ):
        assert ours[key] > 0, key
    assert ours["useful_tokens_per_second"] == pytest.approx(
        2 * ours["supervised_tokens_per_second"]
    )
    assert ours["parity"] == {"first": 0.0, "largest": 0.0, "steps": 3, "holds": True}
    first = ours["blocks"][0]
    assert (
        len(first["losses"]) == len(first["step_seconds"]) == 3 and len(first["gemm_gflops"]) == 2
    )
    assert first["losses"][2] != first["losses"][0]


def test_operations_of_a_timed_block_follow_its_lengths(results, tiny_model):
    from limits import read_shape, training_flops

    shape = read_shape(tiny_model(tie=True))
    first = results[0]["cells"][0]["entrants"][0]["blocks"][0]
    steps = first["timed_steps"]
    expected = training_flops(shape, 16, [512, 512] * steps, 512 * steps)
    assert first["flops_per_token"] * first["timed_tokens"] == pytest.approx(expected)


def test_generation_and_evaluation_report_every_figure(results):
    generation, evaluation = (cell["entrants"][0] for cell in results[0]["cells"][1:])
    for key in ("first_token_seconds", "load_quantize_seconds", "peak_rss"):
        assert generation[key] > 0, key
    assert generation["generated_tokens"] >= 0 and isinstance(generation["blocks"][0]["text"], str)
    for key in ("loss", "total_seconds", "peak_rss"):
        assert evaluation[key] > 0, key


def test_the_report_names_peers_that_did_not_run(results):
    found, text = results
    for cell in found["cells"]:
        for name, reason in cell["skipped"].items():
            assert f"- not run: {name}: {reason}" in text
    assert "plain loop, jemalloc" in found["cells"][0]["skipped"]
    assert "ours, default waiting" in found["cells"][0]["skipped"]
    assert "| useful tokens/s |" in text and "A quick try" in text


def test_an_unknown_cell_is_refused_by_name(root):
    command = [
        sys.executable,
        "-B",
        root / "scripts" / "bench.py",
        "--device",
        "cpu",
        "--cells",
        "C1,C9",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "C9: the cells are C1, C2, C3" in done.stderr


def test_a_resumed_benchmark_keeps_what_is_finished_and_runs_the_rest(bench, results):
    file = bench.output / "results.json"
    found = json.loads(file.read_text())
    evaluation = found["cells"].pop()
    found["cells"][0]["work"] = "as it was"
    file.write_text(json.dumps(found))
    done = bench("--cells", "C2,C6", "--steps", "1", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"kept from {bench.output}: C2, C5\n" in done.stderr
    resumed = json.loads(file.read_text())
    assert [cell["cell"] for cell in resumed["cells"]] == ["C2", "C5", "C6"]
    assert resumed["cells"][:2] == found["cells"]
    (ours,) = resumed["cells"][2]["entrants"]
    assert ours["loss"] == evaluation["entrants"][0]["loss"]
    assert resumed["goals"] and "C2: as it was" in done.stdout


def test_a_benchmark_with_other_settings_is_not_mixed_with_an_earlier_one(bench, results):
    before = (bench.output / "results.json").read_bytes()
    done = bench("--cells", "C2", "--steps", "2", "--resume")
    assert done.returncode != 0 and not done.stdout
    assert "results.json differs in its settings: " in done.stderr
    assert (bench.output / "results.json").read_bytes() == before
