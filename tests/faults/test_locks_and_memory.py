"""Two runs in one folder, too little memory, folders that cannot be used, and what a run opens at all."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess

import pytest
from training_run import FULL, folder_difference, run_difference, steps_of

RUN = {"max_steps": 6, "save_steps": 2, "eval_steps": 3, "sample_rows": 0, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def reference(experiment):
    return experiment.reference(**RUN)


# Locks


def test_one_of_two_runs_wins(experiment, reference, tally):
    experiment.config(**RUN)
    for _ in range(50 if FULL else 10):
        experiment.clear()
        pair = [experiment.start(), experiment.start()]
        texts = [process.communicate(timeout=60)[1] for process in pair]
        codes = [process.returncode for process in pair]
        assert sorted(codes) == [0, 2], (codes, texts)
        winner, loser = codes.index(0), codes.index(2)
        named = re.search(r"in use by another run \(process (\d+)\)", texts[loser])
        # One that starts after the other's end finds a finished run instead.
        late = "already holds a run" in texts[loser]
        assert late or named and int(named[1]) == pair[winner].pid, (texts[loser], pair[winner].pid)
        difference = run_difference(experiment.out, reference)
        tally.add("two runs at once", "silent" if difference else "survived")
        assert not difference


def wait_for(process, pattern):
    for line in process.stderr:
        if re.search(pattern, line):
            return
    pytest.fail(f"{pattern} was not shown")


def test_the_lock_of_a_killed_run_is_taken_over(experiment, reference, tally):
    experiment.config(**RUN)
    for pattern in ("template:", "^step 1/", "^step 4/"):
        for _ in range(20):  # the run may end before the signal is there
            experiment.clear()
            process = experiment.start()
            wait_for(process, pattern)
            process.kill()
            process.communicate()
            if process.returncode == -signal.SIGKILL:
                break
        assert process.returncode == -signal.SIGKILL
        assert (experiment.out / ".lock").is_file()
        assert experiment.train("--resume").code == 0
        difference = run_difference(experiment.out, reference)
        tally.add("lock of a killed run", "silent" if difference else "survived")
        assert not difference


def test_a_stopped_owner_still_owns(experiment, reference, tally):
    experiment.config(**RUN)
    experiment.clear()
    process = experiment.start()
    wait_for(process, "^step 1/")
    process.send_signal(signal.SIGSTOP)
    ended = experiment.train("--resume")
    process.send_signal(signal.SIGCONT)
    text = process.communicate(timeout=60)[1]
    assert ended.code == 2 and f"(process {process.pid})" in ended.text, ended.text
    assert process.returncode == 0, text
    assert run_difference(experiment.out, reference) == ""
    tally.add("sleeping owner")


# Memory


def limited(experiment, megabytes, *flags, **settings):
    """Code and stderr under `ulimit -v`; core dumps are allowed, so that one would be seen."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    done = subprocess.run(
        experiment.command(*flags, **settings),
        capture_output=True,
        text=True,
        env=experiment.environment,
        preexec_fn=limit,
        cwd=experiment.folder,
        timeout=60,
    )
    return done.returncode, done.stderr


def smallest_start(experiment):
    """The least address space in which the program can say its version: below it the loader fails."""
    low, high = 64, 4096
    while high - low > 2:
        middle = (low + high) // 2
        done = subprocess.run(
            ["bash", "-c", f"ulimit -v {middle * 1024}; ulimit -c 0; exec {experiment.program} --version"],
            capture_output=True,
            env=experiment.environment,
        )
        low, high = (low, middle) if done.returncode == 0 else (middle, high)
    return high


def test_too_little_memory_ends_with_a_sentence(experiment, reference, tally):
    """From what barely starts to what suffices: never a crash, and the folder stays as it was."""
    experiment.config(**RUN)
    least = smallest_start(experiment)
    ended_early = 0
    for extra in range(100):  # MiB
        experiment.put_back(reference)
        shutil.rmtree(experiment.out / "adapter")
        shutil.rmtree(experiment.out / "checkpoints/step-6")
        code, text = limited(experiment, least + extra, "--resume")
        if code == 0:
            assert run_difference(experiment.out, reference) == ""
            break
        ended_early += 1
        tally.add("memory limit", "survived" if code == 4 else "lost")
        assert code == 4, (least + extra, code, text)
        assert "what helps most" in text or "a smaller model or more memory" in text, text
        assert not list(experiment.folder.glob("core*"))
        for step in steps_of(experiment.out):
            name = f"checkpoints/step-{step}"
            assert folder_difference(experiment.out / name, reference / name) == ""
        assert set(steps_of(reference)) - {6} <= set(steps_of(experiment.out))
    assert ended_early > 0
    assert experiment.train("--resume").code == 0
    assert run_difference(experiment.out, reference) == ""


def test_too_little_memory_for_threads_ends_with_a_sentence(experiment, tally):
    """libgomp by itself would end the process with a line of its own and code 1."""
    experiment.config(**RUN | {"max_steps": 1, "eval_steps": 9, "save_steps": 9})
    least, sentences = smallest_start(experiment), 0
    for extra in (*range(0, 96, 4), 400):
        experiment.clear()
        code, text = limited(experiment, least + extra, model__threads=4)
        tally.add("memory limit, 4 threads", "survived" if code in (0, 4) else "lost")
        assert code in (0, 4), (extra, code, text)
        sentences += "no memory for 4 threads: set model.threads lower" in text
    assert sentences > 0 and code == 0


def large_batches(experiment):
    """The settings of a run of one step whose activations are most of its memory."""
    experiment.config(**RUN | {"max_steps": 1, "eval_steps": 9, "save_steps": 9})
    rows = experiment.folder / "wide.jsonl"
    row = '{"text": "' + "one two three " * 20 + '"}\n'
    rows.write_text(row * 48, encoding="utf-8")
    return {
        "data__train": str(rows),
        "data__eval": None,
        "data__template": "none",
        "data__max_length": 512,
        "training__eval_steps": None,
        "training__per_device_train_batch_size": 48,
    }


def test_too_little_memory_for_large_batches(experiment, tally):
    """Activations of some 100 MB: refused by the plan far below; nowhere a crash."""
    settings = large_batches(experiment)
    least = smallest_start(experiment)
    for extra in (*range(8, 400, 8 if FULL else 32), 1000):
        experiment.clear()
        code, text = limited(experiment, least + extra, **settings)
        tally.add("memory limit", "survived" if code in (0, 4) else "lost")
        assert code in (0, 4), (extra, code, text)
        assert code == 0 or "per_device_train_batch_size" in text, text
        if "are available" in text:
            assert not experiment.out.exists(), "refused before anything is written"
    assert code == 0, "the last limit suffices"


def test_auto_recomputes_as_much_as_the_memory_demands(experiment, tally):
    """Three levels as the limit rises, all with one result; where the plan fits the run ends well."""
    settings = large_batches(experiment) | {"training__gradient_checkpointing": "auto"}
    least, results, levels = smallest_start(experiment), {}, []
    for extra in (*range(16, 400, 8 if FULL else 24), 1000):
        experiment.clear()
        code, text = limited(experiment, least + extra, **settings)
        tally.add("memory limit", "survived" if code in (0, 4) else "lost")
        assert code in (0, 4), (extra, code, text)
        if choice := re.search(r"checkpointing auto: recomputes (\w+) \(", text):
            levels.append(choice[1])
        if code == 0:
            adapter = (experiment.out / "adapter/adapter_model.safetensors").read_bytes()
            results.setdefault(adapter, []).append(levels[-1])
    assert code == 0 and levels[-1] == "none"
    assert levels == sorted(levels, key=["layers", "mlp", "none"].index) and set(levels) >= {"layers", "none"}
    assert len(results) == 1, "the level must not change a byte"


def test_a_run_that_cannot_fit_is_refused_before_the_model_is_loaded(experiment, tally):
    experiment.config(**RUN)
    experiment.clear()
    rows = experiment.folder / "long.jsonl"
    rows.write_text('{"text": "' + "x y " * 100000 + '"}\n', encoding="utf-8")
    code, text = limited(
        experiment,
        smallest_start(experiment) + 100,
        data__train=str(rows),
        data__eval=None,
        training__eval_steps=None,
        data__template="none",
        data__max_length=1000000,
    )
    # Half a micro-batch of one row is that row, and shorter rows are none: neither is advised.
    assert code == 4 and "are available" in text and "training.gradient_checkpointing: true" in text, text
    advice = text[text.index("error: "):]
    assert "per_device_train_batch_size" not in advice and "max_length" not in advice, text
    assert not experiment.out.exists()
    tally.add("planned memory")


def test_memory_is_checked_before_the_base_is_read(experiment, reference, tally):
    """An adapter of another base, which only reading the whole base shows, and too little memory."""
    adapter = experiment.folder / "foreign"
    shutil.copytree(reference / "adapter", adapter)
    file = adapter / "adapter_model.safetensors"
    changed, count = re.subn(rb'("qlora.base":")[0-9a-f]{32}', rb"\g<1>" + b"0" * 32, file.read_bytes())
    assert count == 1
    file.write_bytes(changed)
    experiment.config(**RUN)
    run = experiment.folder / "run.json"
    config = json.loads(run.read_text(encoding="utf-8"))
    del config["peft"]  # the adapter's own
    run.write_text(json.dumps(config), encoding="utf-8")
    experiment.clear()
    ended = experiment.train(model__adapter=str(adapter))
    assert ended.code == 2 and "another base" in ended.text, ended.text
    rows = experiment.folder / "long.jsonl"
    rows.write_text('{"text": "' + "x y " * 100000 + '"}\n', encoding="utf-8")
    settings = {"data__train": str(rows), "data__eval": None, "training__eval_steps": None}
    settings |= {"data__template": "none", "data__max_length": 1000000, "model__adapter": str(adapter)}
    code, text = limited(experiment, smallest_start(experiment) + 100, **settings)
    assert code == 4 and "are available" in text and "another base" not in text, text
    tally.add("planned memory before a foreign base")


# Folders that cannot be used


def test_a_file_in_the_place_of_the_folder(experiment, tally):
    experiment.config(**RUN)
    experiment.clear()
    experiment.out.write_text("precious", encoding="utf-8")
    ended = experiment.train()
    assert ended.code == 2 and "training.output_dir" in ended.text and str(experiment.out) in ended.text, (
        ended.text
    )
    ended = experiment.train(training__output_dir=str(experiment.out / "below"))
    assert ended.code == 2 and "training.output_dir" in ended.text, ended.text
    assert experiment.out.read_text(encoding="utf-8") == "precious"
    experiment.out.unlink()
    tally.add("unusable folder", count=2)


def test_missing_parents_are_made_and_a_failed_run_takes_them_away(experiment, tally):
    experiment.config(**RUN)
    deep = experiment.folder / "a/b/run"
    ended = experiment.train(training__output_dir=str(deep), data__template="none")
    assert ended.code == 2, ended.text
    assert not (experiment.folder / "a").exists()
    assert experiment.train(training__output_dir=str(deep)).code == 0
    assert (deep / "adapter/adapter_model.safetensors").is_file()
    shutil.rmtree(experiment.folder / "a")
    tally.add("unusable folder")


def test_a_folder_without_the_right_to_write(experiment, tally):
    experiment.config(**RUN)
    experiment.clear()
    experiment.out.mkdir()
    wrap = []
    if os.geteuid() == 0:
        # Root may write everywhere; a file system mounted read-only stops it too.
        mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(experiment.out)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a file system")
    else:
        experiment.out.chmod(0o555)
    try:
        ended = experiment.train(wrap=wrap)
        below = experiment.train(training__output_dir=str(experiment.out / "run"))
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(experiment.out)], check=True)
        experiment.out.chmod(0o755)
    for refused in (ended, below):
        assert refused.code == 2 and "training.output_dir" in refused.text, refused.text
        tally.add("unusable folder")


def test_a_limit_on_file_sizes_is_an_error_and_no_crash(experiment, tally):
    """Without care SIGXFSZ ends the process with a core dump."""
    experiment.config(**RUN)
    experiment.clear()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    done = subprocess.run(
        experiment.command(),
        capture_output=True,
        text=True,
        env=experiment.environment,
        preexec_fn=limit,
        timeout=60,
    )
    assert done.returncode == 4 and "was not saved" in done.stderr, (done.returncode, done.stderr)
    assert steps_of(experiment.out) == []
    tally.add("file size limit")


# What a run touches


def test_a_run_opens_no_code_starts_nothing_and_calls_nobody(experiment):
    experiment.config(**RUN)
    experiment.clear()
    log = experiment.folder / "calls"
    calls = "open,openat,openat2,execve,execveat,socket,connect,fork,vfork"
    ended = experiment.train(wrap=["strace", "-f", "-qq", "-o", log, "-e", f"trace={calls}"])
    assert ended.code == 0, ended.text
    lines = log.read_text(encoding="utf-8").splitlines()
    opened = [line for line in lines if re.search(r"\b(open|openat2?)\(", line) and "= -1" not in line]
    assert any("model.safetensors" in line for line in opened)
    forbidden = re.compile(r'\.(pt|pth|bin|py|pyc|pkl|ckpt)"')
    assert [line for line in opened if forbidden.search(line)] == []
    started = [place for place, line in enumerate(lines) if "execve(" in line]
    # The program itself, perhaps once more with a setting that the OpenMP runtime reads only at start.
    assert all(f'execve("{experiment.program}"' in lines[place] for place in started)
    first = next(place for place, line in enumerate(lines) if "run.json" in line and "openat(" in line)
    assert len(started) <= 2 and max(started) < first
    assert [line for line in lines if re.search(r"\b(socket|connect|fork|vfork|execveat)\(", line)] == []
