"""Full fine-tuning as anyone would script it with transformers, beside `petl-bench train`.

python -m benchmarks.plain_finetune TASK [--data DIR] [--backbone NAME] [--seeds 0,1,2]
    [--epochs 3 | --max-steps 150] [--batch-size 100] [--learning-rate 1e-4]

Splits, texts and labels are those of `petl-bench train`; from there on nothing is ours: tokenizer,
model, a loop over a DataLoader, AdamW, a linear schedule with a warm-up of a tenth, gradients
clipped to a norm of 1, the epoch with the best validation accuracy tested. Prints a JSON line a
seed, and the mean. Of classifications scored by accuracy.
"""

import argparse
import copy
import json
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
    set_seed,
)

from petl_bench.tasks import splits, weights
from petl_bench.tasks.catalogue import find

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MAX_LENGTH_TOKENS = 128


def main():
    """Print the score of each seed, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-steps", type=int, help="so many steps of one epoch, instead")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    asked = parser.parse_args()
    task = find(asked.task)
    data = splits.load(task, asked.data)
    folder = weights.find(asked.backbone or task.backbone).folder
    scores = []
    for seed in map(int, asked.seeds.split(",")):
        scores.append(finetune(data, folder, seed, asked))
        print(json.dumps({"seed": seed, "test_accuracy": scores[-1]}), flush=True)
    spread = stdev(scores) if len(scores) > 1 else None
    print(json.dumps({"mean": fmean(scores), "deviation": spread}))


def finetune(data: splits.Splits, folder: Path, seed: int, asked: argparse.Namespace) -> float:
    """Test accuracy of one run."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(data.labels), dtype=torch.float32, ignore_mismatched_sizes=True
    ).to(DEVICE)

    def batch_of(examples):
        texts = [list(of_field) for of_field in zip(*(e.texts for e in examples), strict=True)]
        batch = tokenizer(
            *texts,
            padding=True,
            truncation=True,
            max_length=MAX_LENGTH_TOKENS,
            return_tensors="pt",
        )
        return batch.to(DEVICE), torch.tensor([e.label for e in examples], device=DEVICE)

    def loader(examples, *, shuffle=False):
        return DataLoader(
            examples, batch_size=asked.batch_size, shuffle=shuffle, collate_fn=batch_of
        )

    @torch.no_grad()
    def accuracy(examples):
        model.eval()
        right = sum(
            (model(**batch).logits.argmax(-1) == labels).sum().item()
            for batch, labels in loader(examples)
        )
        return right / len(examples)

    training = loader(data.train, shuffle=True)
    epochs, steps_per_epoch = asked.epochs, len(training)
    if asked.max_steps:
        epochs, steps_per_epoch = 1, min(asked.max_steps, steps_per_epoch)
    steps = epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=asked.learning_rate, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, min(500, steps // 10), steps)
    best, best_weights = -1.0, {}
    for _ in range(epochs):
        model.train()
        for batch, labels in islice(training, steps_per_epoch):
            model(**batch, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        found = accuracy(data.validation)
        if found > best:
            best, best_weights = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return accuracy(data.test)


if __name__ == "__main__":
    main()
