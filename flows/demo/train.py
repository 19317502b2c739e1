"""The training script of the demo's two models, from scratch on generated problems.

    python flows/demo/train.py --out flows/demo/models

The teacher is trained with the answer in its prompt; theta with the question alone, until it solves 40 % of 512
held-out problems, so that the teacher still has something to add.
"""

import argparse
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from flows.demo.measure import sample, score
from flows.demo.problems import Style, final_answer, generate_problems, in_own_words, prompt
from flows.demo.tokenizer import build_tokenizer

IGNORED = -100  # the label that cross_entropy ignores
BATCH = 64
WARM_UP_STEPS = 50
SEED_STRIDE = 100_000  # more than the steps of a run, so that two runs share no batch


@dataclass(frozen=True)
class Recipe:
    """The settings that differ between the two models."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    steps: int
    eval_every: int
    hints: tuple[str, ...]  # kinds of a training prompt's hint, drawn uniformly
    stop_at: float | None = None  # the share of solved problems that ends the training


RECIPES: dict[Style, Recipe] = {
    # Unequal vocabulary sizes, both above the tokenizer's 440 tokens, as in real model families.
    "theta": Recipe(448, 96, 3, 2, 1200, 50, ("none",), stop_at=0.40),
    "teacher": Recipe(512, 128, 3, 2, 500, 100, ("answer", "answer", "number", "none")),
}


def build_model(recipe: Recipe, eos_token_id: int) -> Qwen3ForCausalLM:
    """Return a Qwen3 with head_dim 64, which vLLM's attention supports on every device."""
    config = Qwen3Config(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=2 * recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads // 2,
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def training_pairs(style: Style, recipe: Recipe, num: int, seed: int) -> list[tuple[str, str]]:
    """Return prompts with completions in the model's own style, whatever the hint's."""
    rng = random.Random(seed)
    pairs = []
    for problem in generate_problems(num, seed, split="train"):
        answer = problem["answer"]
        hint = {"answer": answer, "number": final_answer(answer), "none": None}[rng.choice(recipe.hints)]
        pairs.append((prompt(problem["question"], hint), f" {in_own_words(answer, style, rng)}"))
    return pairs


def to_batch(pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, both [B, L] int64, padded on the right, which a causal model does not attend to."""
    prompts, completions = (tokenizer(list(texts)).input_ids for texts in zip(*pairs, strict=True))
    rows = [(p, [*c, tokenizer.eos_token_id]) for p, c in zip(prompts, completions, strict=True)]
    length = max(len(p) + len(c) for p, c in rows)
    token_ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), IGNORED)
    for i, (p, c) in enumerate(rows):
        token_ids[i, : len(p) + len(c)] = torch.tensor(p + c)
        labels[i, len(p) : len(p) + len(c)] = torch.tensor(c)
    return token_ids, labels


def build_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices, AdamW for the rest: 600 steps solved 21 %, with AdamW alone 3 %."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]


def train(name: Style, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """Minimise the cross-entropy of the completions; print the held-out score every `eval_every` steps."""
    torch.manual_seed(seed)
    model = build_model(recipe, tokenizer.eos_token_id)
    print(f"{name}: {model.num_parameters():,} parameters", flush=True)
    optimizers = build_optimizers(model)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARM_UP_STEPS, 1 - step / recipe.steps)
        )
        for optimizer in optimizers
    ]
    problems = generate_problems(512, seed)
    hints = [problem["answer"] if "answer" in recipe.hints else None for problem in problems]
    prompts = [prompt(problem["question"], hint) for problem, hint in zip(problems, hints, strict=True)]
    start = time.monotonic()
    for step in range(1, recipe.steps + 1):
        token_ids, labels = to_batch(training_pairs(name, recipe, BATCH, seed=seed * SEED_STRIDE + step), tokenizer)
        loss = model(token_ids, labels=labels, use_cache=False).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % recipe.eval_every == 0 or step == recipe.steps:
            result = score(sample([(model.eval(), prompts)], [1.0], tokenizer, seed), problems, tokenizer)
            model.train()
            print(
                f"{name} step {step:5} {time.monotonic() - start:6.0f} s  loss {loss:.3f}  {result}",
                flush=True,
            )
            if recipe.stop_at is not None and result.solved >= recipe.stop_at:
                break
    return model


def main() -> None:
    """Write `teacher` and `theta`, each a folder that vLLM and transformers load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="train each model this long at most, for a trial")
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = build_tokenizer()
    for name, recipe in RECIPES.items():
        if args.steps is not None:
            recipe = replace(recipe, steps=args.steps)
        model = train(name, recipe, tokenizer, args.seed)
        model.generation_config = GenerationConfig(
            eos_token_id=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id
        )
        model.save_pretrained(args.out / name)
        tokenizer.save_pretrained(args.out / name, save_jinja_files=False)


if __name__ == "__main__":
    main()
