"""The exception hierarchy of Dual Sampling.

DualSamplingError
├── ConfigurationError          the configuration or the input cannot be used (exit code 2)
│   ├── ModelError              a model folder or name that cannot be loaded
│   ├── VocabularyMismatchError theta and teacher have different vocabularies
│   ├── TemplateError           a prompt template that cannot be rendered
│   ├── SourceError             a dataset that cannot be read or recognised
│   ├── OutputError             an output folder that is in use, locked, foreign or not writable
│   ├── ForbiddenError          what the environment of this process forbids (sampling/permissions.py)
│   ├── CapacityError           a pair of models, or a row, that does not fit into memory
│   └── ServerRefusedError      a server that does not serve the configured model or request
├── RowError                    one row that cannot be sampled: quarantined and counted, never fatal
│   ├── BadRowError             malformed, or without a required field (tasks/source/example.py)
│   ├── MissingFieldError       without a field that a template uses (sampling/prompts/rendering.py)
│   ├── RenderError             a template fails on it (sampling/prompts/rendering.py)
│   │   ├── RenderLimitError    or takes it beyond the bounds on time, memory and text
│   │   └── UnusedToolsError    or has no place for its tools
│   ├── ForgedTokenError        its text becomes a special token (sampling/prompts/special_tokens.py)
│   ├── EncodingError           a tokenizer fails on its prompt (sampling/prompts/encoding.py)
│   ├── EmptyPromptError        a prompt without tokens
│   ├── UnknownTokenError       a prompt given as ids, one of which its model does not have
│   ├── PromptTooLongError      prompt + max_tokens exceed a model's context
│   ├── RowCapacityError        prompt + max_tokens exceed a whole KV cache
│   └── NonFiniteLogitsError    a model computed NaN, +inf or no finite logit
├── EngineError                 the engine failed: a retry with a new one may help
│   ├── UnsupportedVllmError    this vLLM lacks an internal API that lockstep needs
│   ├── LockstepError           the two engines scheduled different rows, or a step was interrupted
│   ├── EngineDiedError         the engine's process exited before its work was finished
│   ├── EngineStalledError      the engine's process makes no progress (tasks/worker/watchdog.py)
│   └── ServerError             a server does not respond, or not as vLLM does
├── PublishError                the Hub does not respond, or lacks what was uploaded
├── RunCancelledError           the run was cancelled in Prefect
└── RefusedError                the validation gate refused to publish a dataset (exit code 3)
"""


class DualSamplingError(Exception):
    """Base class of all errors that this project raises on purpose."""


class ConfigurationError(DualSamplingError):
    """The configuration or the input cannot be used as it is."""


class ModelError(ConfigurationError):
    """A model folder or name that cannot be loaded."""


class VocabularyMismatchError(ConfigurationError):
    """Theta and teacher have different vocabularies."""


class TemplateError(ConfigurationError):
    """A prompt template that cannot be compiled or rendered."""


class SourceError(ConfigurationError):
    """A dataset that cannot be found, read or recognised."""


class OutputError(ConfigurationError):
    """An output folder that is in use, locked, foreign or not writable."""


class ForbiddenError(ConfigurationError):
    """A configuration that asks for what the environment of this process forbids: its code, a place to write to."""


class CapacityError(ConfigurationError):
    """A pair of models that does not fit into memory."""


class ServerRefusedError(ConfigurationError):
    """A server that serves another model, returns too few logprobs, or rejects the API key."""


class RowError(DualSamplingError):
    """One row that cannot be sampled; `reason` is the key it is counted under."""

    reason = "row_error"


class EmptyPromptError(RowError):
    """A prompt without tokens."""

    reason = "empty_prompt"


class UnknownTokenError(RowError):
    """A prompt given as ids, one of which its model does not have."""

    reason = "unknown_token"


class PromptTooLongError(RowError):
    """A prompt that, with `max_tokens`, exceeds a model's context."""

    reason = "prompt_too_long"


class RowCapacityError(RowError):
    """A row whose prompt and completion exceed a whole KV cache."""

    reason = "kv_cache_too_small"


class NonFiniteLogitsError(RowError):
    """A model computed NaN, +inf or no finite logit for a row."""

    reason = "non_finite_logits"


class EngineError(DualSamplingError):
    """The engine failed; a retry with a new one may help."""


class UnsupportedVllmError(EngineError):
    """This vLLM lacks an internal API that lockstep needs."""


class LockstepError(EngineError):
    """The two engines scheduled different rows, or hold logits of an interrupted step."""


class EngineDiedError(EngineError):
    """The engine's process exited before its work was finished."""


class EngineStalledError(EngineError):
    """The engine's process is alive but makes no progress."""


class ServerError(EngineError):
    """A model's servers do not respond, or not as vLLM does."""


class PublishError(DualSamplingError):
    """The Hub does not respond, or lacks what was uploaded; the same command resumes the upload."""


class RunCancelledError(DualSamplingError):
    """The run was cancelled in Prefect; the same command resumes it."""


class RefusedError(DualSamplingError):
    """The validation gate refused to publish a dataset."""
