"""The evaluation of the demo models in plain torch: the share of held-out problems that each solves.

python -m flows.demo.measure [--models DIR] [--num 1000]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from flows.demo.problems import final_answer, generate_problems, prompt

MAX_TOKENS = 48


@dataclass(frozen=True)
class Score:
    """Shares of the problems, each in [0, 1]."""

    solved: float
    ended: float  # with EOS, within MAX_TOKENS

    def __str__(self) -> str:
        return f"solved {self.solved:6.1%}   ended {self.ended:6.1%}"


@torch.inference_mode()
def sample(
    views: Sequence[tuple[PreTrainedModel, list[str]]],
    weights: Sequence[float],
    tokenizer: Tokenizer,
    seed: int,
) -> list[list[int]]:
    """Sample one completion per row, at temperature 1, from the product of the models' distributions.

    Each view is a model with its prompts, row for row. Token y has a probability proportional to
    prod_i p_i(y)^weights[i] over the tokenizer's ids. Return the new token ids, EOS included when drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    states = []
    for model, prompts in views:
        encoded = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        states.append((model, encoded.input_ids, encoded.attention_mask, DynamicCache(config=model.config)))
    num_rows = len(views[0][1])
    drawn = torch.empty(num_rows, 0, dtype=torch.long)
    for _ in range(MAX_TOKENS):
        log_q = torch.zeros(num_rows, len(tokenizer))
        for i, (model, input_ids, mask, cache) in enumerate(states):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            logits = model(
                input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1, : len(tokenizer)]
            log_q += weights[i] * logits.float().log_softmax(-1)
        token_ids = torch.multinomial(log_q.softmax(-1), 1, generator=generator)
        drawn = torch.cat([drawn, token_ids], 1)
        if (drawn == tokenizer.eos_token_id).any(1).all():
            break
        states = [
            (model, token_ids, torch.cat([mask, torch.ones_like(token_ids)], 1), cache)
            for model, _, mask, cache in states
        ]
    return [_until_eos(row, tokenizer.eos_token_id) for row in drawn.tolist()]


def _until_eos(token_ids: list[int], eos_token_id: int) -> list[int]:
    return token_ids[: token_ids.index(eos_token_id) + 1] if eos_token_id in token_ids else token_ids


def score(completions: list[list[int]], problems: list[dict[str, str]], tokenizer: Tokenizer) -> Score:
    """Return the score; a problem is solved when the completion's final number is the reference's."""
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    solved = sum(final_answer(text) == final_answer(p["answer"]) for text, p in zip(texts, problems, strict=True))
    ended = sum(tokenizer.eos_token_id in token_ids for token_ids in completions)
    return Score(solved / len(problems), ended / len(problems))


def main() -> None:
    """Print the score of each model, of the teacher with a shorter or no hint, of the mixture at α = 0.5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(__file__).parent / "models")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="train.py stops theta on seed 0")
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(args.models / "theta")
    teacher, theta = (
        AutoModelForCausalLM.from_pretrained(args.models / name, dtype=torch.float32) for name in ("teacher", "theta")
    )
    problems = generate_problems(args.num, args.seed)
    plain = [prompt(p["question"]) for p in problems]
    hinted = [prompt(p["question"], p["answer"]) for p in problems]
    numbers = [prompt(p["question"], final_answer(p["answer"])) for p in problems]
    for name, views in {
        "theta alone": [(theta, plain)],
        "teacher, shown the answer": [(teacher, hinted)],
        "teacher, shown the number": [(teacher, numbers)],
        "teacher, shown nothing": [(teacher, plain)],
        "mixture, alpha 0.5": [(theta, plain), (teacher, hinted)],
    }.items():
        completions = sample(views, [1 / len(views)] * len(views), tokenizer, args.seed)
        print(f"{name:28}{score(completions, problems, tokenizer)}", flush=True)


if __name__ == "__main__":
    main()
