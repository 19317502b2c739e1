"""The constructor of the HTTP backend: connects to two served models and checks that they are the configured ones."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from sampling.bounds import Bounds
from sampling.config import ModelConfig
from sampling.errors import VocabularyMismatchError
from sampling.models.ending import ending_ids
from sampling.models.vocabulary import check_vocabularies, load_tokenizer
from sampling.permissions import check_server
from sampling.served.client import ModelClient
from sampling.served.config import HttpConfig, api_key
from sampling.served.engine import HttpEngine

# Words, digits, white space, code, several scripts: different tokenizers differ on these, or on the text added to it.
PROBE = "The 7 quick føxes — 你好, π ≈ 3.14159!\n\tdef f(x_1):  return x_1**2  # été\r\n\n👩‍👩‍👧 don't"
NUM_PROBED_IDS = 200  # evenly spread over the vocabulary


def connect(
    theta: ModelConfig, teacher: ModelConfig, config: HttpConfig, bounds: Bounds | None = None
) -> tuple[HttpEngine, tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase], tuple[int, ...]]:
    """Return the engine, theta's and the teacher's tokenizer, `ending_ids`.

    Raises ForbiddenError, ServerError, ServerRefusedError, ModelError, VocabularyMismatchError.
    """
    for url in (*theta.urls, *teacher.urls):
        check_server(url)
    clients = [
        ModelClient(
            name,
            model.urls,
            config,
            api_key=api_key(name),
            served_name=model.served_name,
            model=model.model or None,
            bounds=bounds,
        )
        for name, model in (("theta", theta), ("teacher", teacher))
    ]
    engine = HttpEngine(clients[0], clients[1], config)
    try:
        models = [
            model if model.model else model.model_copy(update={"model": client.info.model})
            for client, model in zip(clients, (theta, teacher), strict=True)
        ]
        tokenizers = load_tokenizer(models[0]), load_tokenizer(models[1])
        engine.num_ids = check_vocabularies(*tokenizers)
        probes = _probe(tokenizers[0]), _probe(tokenizers[1])
        for client, model, tokenizer, probe, theirs in zip(
            clients, models, tokenizers, probes, engine.tokenize(*probes), strict=True
        ):
            ours = tokenizer.encode(probe, add_special_tokens=False)
            if ours != theirs:
                index = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(theirs))
                raise VocabularyMismatchError(
                    f"{client.name}'s server ({client.info.model}) has another tokenizer than {model.model}: a probe"
                    f" of {len(ours)} tokens differs from token {index} on; give the folder or Hub id of what it serves"
                )
        return engine, tokenizers, ending_ids(models[0], models[1], tokenizers, engine.num_ids)
    except BaseException:
        engine.close()
        raise


def _probe(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a text that other tokenizers encode differently: it holds special tokens and a sample of the others."""
    num_ids = len(tokenizer)
    ids = range(0, num_ids, max(1, num_ids // NUM_PROBED_IDS))
    pieces = [tokenizer.decode([token_id]) for token_id in ids]
    return " ".join([PROBE, *tokenizer.all_special_tokens, *(text for text in pieces if "\ufffd" not in str(text))])
