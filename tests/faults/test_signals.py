"""A run that a signal stops, or does not: resumed, it equals one that never was stopped, to the byte."""

import random
import re
import signal
import time

import pytest
from training_run import (
    FULL,
    folder_difference,
    leftovers,
    resume_and_compare,
    run_difference,
    steps_of,
    stop_when,
    strace,
)

STOPPED = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def few_saves(experiment, every_step):
    """Saves seldom, evaluates often, so that most moments are far from a save."""
    experiment.config(save_steps=7)
    experiment.clear()
    assert experiment.train().code == 0
    reference = experiment.set_aside("few_saves")
    assert folder_difference(reference / "adapter", every_step / "adapter") == ""
    return reference


def alternately(places):
    """Pairs of a place and a signal: the two signals in turn, which one handler serves; each at every place with FULL."""
    pairs = [(place, number) for place in places for number in STOPPED]
    return pairs if FULL else [pairs[2 * i + i % 2] for i in range(len(pairs) // 2)]


PHASES = {
    "tokenisation": "template:",
    "load": "planned peak",
    "first evaluation": "training for",
    "step": r"^step 5/20",
    "evaluation": r"^step 6/20",
    "samples": "^step 9: held-out",
    "after a save": "saved .*step-14",
}


@pytest.mark.parametrize("phase,number", alternately(PHASES))
def test_a_signal_in_each_phase(experiment, few_saves, tally, phase, number):
    experiment.config(save_steps=7)
    experiment.clear()
    code, text, _ = stop_when(experiment, PHASES[phase], number)
    assert code == STOPPED[number], text
    assert leftovers(experiment.out) == []
    resume_and_compare(experiment, few_saves, tally, "signal in each phase")


@pytest.mark.parametrize("call,number", alternately([2, 5, 9, 14, 20, 27, 33]))
def test_a_signal_while_saving(experiment, few_saves, tally, call, number):
    """Sent by the kernel at the n-th sync of a file, so always inside a save."""
    experiment.config(save_steps=7)
    experiment.clear()
    ended = experiment.train(wrap=strace(f"fsync:signal={number.name}:when={call}"))
    assert ended.code == STOPPED[number], ended.text
    assert leftovers(experiment.out) == []
    resume_and_compare(experiment, few_saves, tally, "signal while saving")


@pytest.mark.parametrize("number", STOPPED)
def test_a_second_signal_ends_at_once(experiment, few_saves, tally, number):
    """Both inside one save: it stays unfinished, the checkpoint before is intact."""
    experiment.config(save_steps=7)
    for call in (25, 31, 36):
        experiment.clear()
        ended = experiment.train(wrap=strace(f"fsync:signal={number.name}:when={call}..{call + 1}"))
        assert ended.code == STOPPED[number], ended.text
        assert steps_of(experiment.out), "an earlier save was finished before"
        resume_and_compare(experiment, few_saves, tally, "second signal")


def test_signals_at_random_moments(experiment, tally):
    """A run that is long against the loading of its libraries, so that most signals meet it running."""
    experiment.config(max_steps=150, save_steps=7, save_total_limit=3)
    started = time.monotonic()
    experiment.clear()
    assert experiment.train().code == 0
    length = time.monotonic() - started
    reference = experiment.set_aside("long")
    chance = random.Random(7)
    delays, codes = [], []
    for _ in range(200 if FULL else 12):
        experiment.clear()
        number = chance.choice(list(STOPPED))
        process = experiment.start()
        time.sleep(chance.uniform(0, length))
        process.send_signal(number)
        sent = time.monotonic()
        text = process.communicate(timeout=60)[1]
        delays.append(time.monotonic() - sent)
        codes.append(process.returncode)
        # Killed by the signal itself: still being loaded.
        before_main = process.returncode == -number and text == "" and not experiment.out.exists()
        assert process.returncode in (0, STOPPED[number]) or before_main, (process.returncode, text)
        if process.returncode == 0:
            assert run_difference(experiment.out, reference) == ""
        resume_and_compare(experiment, reference, tally, "signal at a random moment")
    assert sum(code > 0 for code in codes) > len(codes) / 4, "hardly any signal met a running program"
    delays.sort()
    tally.note(
        f"{len(delays)} signals at random moments: to the end p50 {delays[len(delays) // 2] * 1e3:.0f} ms, "
        f"p99 {delays[int(len(delays) * 0.99)] * 1e3:.0f} ms"
    )


def test_hang_up_and_a_closed_pipe_do_not_end_a_run(experiment, few_saves, tally):
    experiment.config(save_steps=7)
    for pattern in ("template:", "^step 3/20"):
        experiment.clear()
        code, text, _ = stop_when(experiment, pattern, signal.SIGHUP)
        assert code == 0, text
        assert run_difference(experiment.out, few_saves) == ""
        tally.add("SIGHUP")
    for pattern in ("template:", "^step 3/20"):
        experiment.clear()
        process = experiment.start()
        for line in process.stderr:
            if re.search(pattern, line):
                break
        process.stderr.close()
        assert process.wait(timeout=60) == 0
        assert run_difference(experiment.out, few_saves) == ""
        tally.add("stderr closed")
