"""trl's SFTTrainer on our token ids and labels, in the order of our steps.

mode "default": what SFTConfig says, but bf16 off, which this processor could only emulate.
mode "tuned": gradient checkpointing off as well; the benchmark hands rows grouped by length.
mode "tuned-fp32": besides, the adapters are put back to fp32. SFTTrainer rounds them to bf16 on a
quantized model.
"""

import tempfile
import time

import torch
from datasets import Dataset
from quantized import labels_of, load_quantized, read_job, with_adapter, write_result
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class StepEnds(TrainerCallback):
    def __init__(self):
        self.begin, self.ends = None, []

    def on_train_begin(self, *arguments, **more):
        self.begin = time.monotonic()

    def on_step_end(self, *arguments, **more):
        self.ends.append(time.monotonic())


class RecordingTrainer(SFTTrainer):
    """Keeps each loss unrounded; the trainer's log has four digits."""

    def training_step(self, *arguments, **more):
        loss = super().training_step(*arguments, **more)
        self.recorded_losses.append(loss.item())
        return loss


def settings(job, folder):
    options = {} if job.mode == "default" else {"gradient_checkpointing": False}
    return SFTConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=job.batch,
        gradient_accumulation_steps=1,
        max_steps=len(job.steps),
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_length=None,
        train_sampling_strategy="sequential",  # the rows come in the order of our steps
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_num_proc=None,
        **options,
    )


def main():
    job = read_job()
    base, load_seconds = load_quantized(job)
    model = with_adapter(base, job)
    rows = [job.rows[i] for step in job.steps for i in step]
    dataset = Dataset.from_list(
        [{"input_ids": row["ids"], "labels": labels_of(row)} for row in rows]
    )
    stamps = StepEnds()
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with tempfile.TemporaryDirectory() as folder:
        trainer = RecordingTrainer(
            model=model,
            args=settings(job, folder),
            train_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(job.model),
            callbacks=[stamps],
        )
        trainer.recorded_losses = []
        trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
        if job.mode == "tuned-fp32":
            for name, parameter in trained.items():
                parameter.data = start[name]
        dtypes = sorted({str(p.dtype) for p in trained.values()})
        trainer.train()
    write_result(
        job,
        load_quantize_seconds=load_seconds,
        begin=stamps.begin,
        ends=stamps.ends,
        losses=trainer.recorded_losses,
        adapter_dtypes=dtypes,
        checkpointing=trainer.args.gradient_checkpointing,
        optimizer=str(trainer.args.optim),
        torch_threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
