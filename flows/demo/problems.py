"""A generator of arithmetic word problems in GSM8K's format.

    {"question": "Mia has 48 shells. She gives away 19. How many shells are left?",
     "answer": "That is 48 - 19 = 29 shells.\n#### 29"}

The unordered pair of numbers in a question decides its split, so the held-out problems share no question
with the training problems, and no pair of numbers either, whatever the operation.
"""

import random
import re
import zlib
from typing import Literal

Split = Literal["train", "held_out"]
Style = Literal["theta", "teacher"]

NAMES = ("Mia", "Tom", "Ana", "Ben", "Eva", "Sam", "Lea", "Max")
ITEMS = ("apples", "shells", "cards", "coins", "books", "stamps", "beads", "nuts")
# Wordings of a worked step, independent of the problem: a good model cannot predict them.
OPENINGS = ("That is", "It comes to", "So we get", "This makes")
LINKS = ("=", "is", "gives")
REMARKS = ("", " Good.", " That was easy.")
# Probability of each wording by model: they differ as a student's style does from its teacher's.
STYLES: dict[Style, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "theta": ((0.5, 0.3, 0.15, 0.05), (0.15, 0.6, 0.25), (0.2, 0.6, 0.2)),
    "teacher": ((0.05, 0.15, 0.3, 0.5), (0.6, 0.15, 0.25), (0.6, 0.15, 0.25)),
}
QUESTIONS = {
    "+": (
        "{name} has {a} {item} and buys {b} more. How many {item} is that in all?",
        "{name} finds {a} {item} on Monday and {b} on Friday. How many {item} is that in all?",
        "{name} has {a} {item}. A friend has {b} more than that. How many {item} has the friend?",
    ),
    "-": (
        "{name} has {a} {item} and gives away {b}. How many {item} are left?",
        "{name} has {a} {item}. A friend has {b} fewer than that. How many {item} has the friend?",
        "There are {a} {item} in a box. {name} takes {b} of them. How many {item} are left?",
    ),
    "*": (
        "{name} fills {b} bags with {a} {item} in each. How many {item} is that in all?",
        "A box holds {a} {item}. {name} buys {b} of them. How many {item} is that in all?",
    ),
    "/": (
        "{name} shares {a} {item} among {b} friends. How many {item} has each friend?",
        "{name} puts {a} {item} in {b} bags. How many {item} are in each bag?",
    ),
}
# One pair of numbers in eight is held out.
HELD_OUT_SHARE = 8


def split_of(a: int, b: int) -> Split:
    """Return the split of a pair of numbers: the same for (a, b) and (b, a), on every machine."""
    digest = zlib.crc32(f"{min(a, b)},{max(a, b)}".encode())
    return "held_out" if digest % HELD_OUT_SHARE == 0 else "train"


def generate_problems(num: int, seed: int, split: Split = "held_out") -> list[dict[str, str]]:
    """Return `num` problems with different questions, the same list for the same seed.

    The held-out split has some 200,000 questions, the training split seven times as many; a larger `num` never ends.
    """
    rng = random.Random(f"{split} {seed}")  # a string seeds through SHA-512, the same on every Python
    problems: dict[str, str] = {}
    while len(problems) < num:
        operation = rng.choice("+-*/")
        a, b, result = _draw_numbers(operation, rng)
        if split_of(a, b) != split:
            continue
        item = rng.choice(ITEMS)
        question = rng.choice(QUESTIONS[operation]).format(name=rng.choice(NAMES), item=item, a=a, b=b)
        step = f"{rng.choice(OPENINGS)} {a} {operation} {b} = {result} {item}."
        problems.setdefault(question, f"{step}\n#### {result}")
    return [{"question": question, "answer": answer} for question, answer in problems.items()]


def _draw_numbers(operation: str, rng: random.Random) -> tuple[int, int, int]:
    """Return two numbers that suit the operation, with its result."""
    if operation in "+-":
        b, a = sorted(rng.sample(range(11, 100), 2))
        return (a, b, a + b) if operation == "+" else (a, b, a - b)
    a, b = rng.randrange(11, 60), rng.randrange(3, 10)
    return (a, b, a * b) if operation == "*" else (a * b, b, a)


def in_own_words(answer: str, style: Style, rng: random.Random) -> str:
    """Return a problem's answer in one model's style, drawn independently of the reference's wording."""
    found = re.fullmatch(r"\D+ (\d+ .* \d+) = (\d+) (\w+)\.\n(#### \d+)", answer)
    assert found is not None, answer
    step, result, item, final = found.groups()
    opening, link, remark = (
        rng.choices(words, weights)[0] for words, weights in zip((OPENINGS, LINKS, REMARKS), STYLES[style], strict=True)
    )
    return f"{opening} {step} {link} {result} {item}.{remark}\n{final}"


def prompt(question: str, hint: str | None = None) -> str:
    """Return the plain prompt that both models were trained on; only the teacher's has a hint."""
    return f"Q: {question}\nA:" if hint is None else f"Q: {question}\nHint: {hint}\nA:"


def final_answer(text: str) -> str | None:
    """Return the number after the last `####`, without thousands separators; None if there is none."""
    found = re.findall(r"####\s*(-?[\d,]*\d)", text)
    return found[-1].replace(",", "") if found else None
