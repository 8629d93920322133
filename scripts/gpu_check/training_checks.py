"""A tiny random model trained on the CPU and on the card: equal losses; what must change nothing does not."""

import shutil

from process import ProcessError
from random_model import answer_rows, write_model, write_rows
from results import FAILED, PASSED, SKIPPED
from trainer import largest_gap, read_metrics, run_config, train

PART = "training"
STEPS = 10
# fp32: sums of some hundred products in another order, over ten steps of AdamW. bf16: each activation is
# rounded to 8 bits, and another order of a sum moves some of them by one.
BOUNDS = {"float32": 1e-4, "bfloat16": 1e-2}
CACHE_SETTING = "training.cache_dequantized"


class TrainingChecks:
    def __init__(self, programs, results, work, card="cuda"):
        self.programs, self.results, self.work, self.card = programs, results, work, card
        self.data = work / "rows.jsonl"
        self.model = write_model(work / "tiny", "tiny", "float32")
        write_rows(answer_rows(2 * STEPS), self.data)

    def config(self, name, device, dtype, **training):
        output = self.work / name
        return run_config(self.model, self.data, output, device, dtype, max_steps=STEPS, **training)

    def losses(self, name, device, dtype, extra=(), **training):
        config = self.config(name, device, dtype, **training)
        train(self.programs, config, self.results.limit(60), "--quiet", extra=extra)
        return [line["loss"] for line in read_metrics(self.work / name)]

    def check(self, name, seconds, body):
        """`body` returns (whether it holds, text, figures)."""
        if not self.results.has_time(PART, name, seconds):
            return
        try:
            holds, text, figures = body()
        except (ProcessError, OSError) as error:
            self.results.add(PART, name, FAILED, str(error))
            return
        self.results.add(PART, name, PASSED if holds else FAILED, text, **figures)

    def devices_agree(self, dtype):
        cpu, card = (self.losses(f"{device}-{dtype}", device, dtype) for device in ("cpu", self.card))
        gap, bound = largest_gap(card, cpu), BOUNDS[dtype]
        text = f"largest relative difference of {STEPS} losses {gap:.1e} (bound {bound:.0e})"
        return gap <= bound, text, {"cpu": cpu, "card": card}

    def resume(self):
        """A whole run; then its second half again, from the checkpoint in the middle."""
        config = self.config(
            "resumed",
            self.card,
            "bfloat16",
            full_determinism=True,
            save_steps=STEPS // 2,
            save_total_limit=None,
        )
        train(self.programs, config, self.results.limit(60), "--quiet")
        output = self.work / "resumed"
        whole = [line["loss"] for line in read_metrics(output)]
        adapter = (output / "adapter" / "adapter_model.safetensors").read_bytes()
        shutil.rmtree(output / "adapter")
        shutil.rmtree(output / "checkpoints" / f"step-{STEPS}")
        train(self.programs, config, self.results.limit(60), "--quiet", "--resume")
        again = [line["loss"] for line in read_metrics(output)]
        same = adapter == (output / "adapter" / "adapter_model.safetensors").read_bytes()
        text = f"losses {'equal' if whole == again else 'differ'}, adapter {'equal' if same else 'differs'}"
        return whole == again and same, text, {"whole": whole, "resumed": again}

    def changes_nothing(self, name, first, second):
        """Two runs that may differ in time and memory alone; each is (training settings, --set arguments)."""
        courses = [
            self.losses(f"{name}-{i}", self.card, "bfloat16", extra, full_determinism=True, **settings)
            for i, (settings, extra) in enumerate((first, second))
        ]
        gap = largest_gap(*courses)
        text = f"largest relative difference of a loss {gap:.1e}"
        return courses[0] == courses[1], text, {"losses": courses}

    def run(self):
        for dtype in BOUNDS:
            self.check(f"CPU and card, {dtype}", 20, lambda dtype=dtype: self.devices_agree(dtype))
        self.check("resume", 20, self.resume)
        settings = [({"gradient_checkpointing": value}, ()) for value in (True, False)]
        self.check("checkpointing on and off", 20, lambda: self.changes_nothing("checkpointing", *settings))
        name = "cache on and off"
        cached = [({}, (f"{CACHE_SETTING}={value}",)) for value in ("true", "false")]
        self.check(name, 20, lambda: self.changes_nothing("cache", *cached))


def check_training(place, results, work):
    if place.programs is None:
        results.add(PART, "CPU and card", SKIPPED, "; ".join(place.notes))
        return
    TrainingChecks(place.programs, results, work).run()
