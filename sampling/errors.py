"""The tree of errors that Dual Sampling raises.

DualSamplingError
├── ConfigurationError          what the user asked for cannot be done (exit code 2)
│   ├── ModelError              a model folder or name that cannot be loaded
│   ├── VocabularyMismatchError theta and teacher do not share one vocabulary
│   ├── TemplateError           a prompt template that cannot be rendered
│   ├── SourceError             a dataset that cannot be read or recognised
│   ├── OutputError             an output folder that is taken, locked, foreign or not writable
│   ├── CapacityError           a pair of models, or a row, that memory cannot hold
│   └── ServerRefusedError      a server that does not serve what was asked for
├── RowError                    one row that cannot be sampled: quarantined, counted, never fatal
│   ├── BadRowError             broken, or without a field it needs (tasks/source/example.py)
│   ├── MissingFieldError       without a field that a template names (sampling/prompts/templates.py)
│   ├── RenderError             a template fails on it (sampling/prompts/templates.py)
│   ├── EmptyPromptError
│   ├── UnknownTokenError       a prompt given as ids holds one that its model does not have
│   ├── PromptTooLongError
│   ├── RowCapacityError        prompt + max_tokens exceed a whole KV cache
│   └── NonFiniteLogitsError    a model gave NaN, +inf or no finite logit
├── EngineError                 the engine is broken: a retry with a fresh one may help
│   ├── UnsupportedVllmError    this vLLM lacks an inside that lockstep needs
│   ├── LockstepError           the two engines scheduled different rows, or a step was broken off
│   ├── EngineDiedError         the engine's process ended before its work did
│   ├── EngineStalledError      the engine's process lives, and does nothing (tasks/worker/watchdog.py)
│   └── ServerError             a server is gone, or answers what no vLLM answers
├── PublishError                the Hub does not answer, or does not hold what it was sent
├── RunCancelledError           somebody cancelled the run on Prefect's pages
└── RefusedError                the gate refused to publish a dataset (exit code 3)
"""


class DualSamplingError(Exception):
    """The root of every error that this project raises on purpose."""


class ConfigurationError(DualSamplingError):
    """What the user asked for cannot be done as asked."""


class ModelError(ConfigurationError):
    """A model folder or name that cannot be loaded."""


class VocabularyMismatchError(ConfigurationError):
    """Theta and teacher do not share one vocabulary."""


class TemplateError(ConfigurationError):
    """A prompt template that cannot be compiled or rendered."""


class SourceError(ConfigurationError):
    """A dataset that cannot be found, read or recognised."""


class OutputError(ConfigurationError):
    """An output folder that is taken, locked, foreign or not writable."""


class CapacityError(ConfigurationError):
    """A pair of models that memory cannot hold."""


class ServerRefusedError(ConfigurationError):
    """A server that does not serve what was asked for: another model, too few logprobs, a key it refuses."""


class RowError(DualSamplingError):
    """One row that cannot be sampled; `reason` is the word it is counted under."""

    reason = "row_error"


class EmptyPromptError(RowError):
    """A prompt that holds no token."""

    reason = "empty_prompt"


class UnknownTokenError(RowError):
    """A prompt of ids one of which its model does not have."""

    reason = "unknown_token"


class PromptTooLongError(RowError):
    """A prompt that, with `max_tokens`, exceeds a model's context."""

    reason = "prompt_too_long"


class RowCapacityError(RowError):
    """A row whose prompt and completion exceed a whole KV cache."""

    reason = "kv_cache_too_small"


class NonFiniteLogitsError(RowError):
    """A model that gave NaN, +inf or no finite logit for a row."""

    reason = "non_finite_logits"


class EngineError(DualSamplingError):
    """The engine is broken; a retry with a fresh one may help."""


class UnsupportedVllmError(EngineError):
    """This vLLM lacks an inside that lockstep needs."""


class LockstepError(EngineError):
    """The two engines scheduled different rows, or hold what nobody computed."""


class EngineDiedError(EngineError):
    """The engine's process ended before its work did."""


class EngineStalledError(EngineError):
    """The engine's process lives, and does nothing any more."""


class ServerError(EngineError):
    """A model's servers are gone, or answer what no vLLM answers."""


class PublishError(DualSamplingError):
    """The Hub does not answer, or does not hold what it was sent; the same command goes on where it ended."""


class RunCancelledError(DualSamplingError):
    """Somebody cancelled the run on Prefect's pages; the same command goes on where it ended."""


class RefusedError(DualSamplingError):
    """The gate refused to publish a dataset."""
