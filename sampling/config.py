"""The configuration of sampling: frozen pydantic models."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

AlphaMethod = Literal["fixed", "kl_symmetry", "ess_balance", "entropy"]
PresetName = Literal["conservative", "balanced", "exploratory"]
Address = TypeVar("Address", str, tuple[str, ...], str | tuple[str, ...] | None)
# In a form Prefect's server refuses such an address itself, before it keeps it as a run's parameter.
MARKS = "[@?#]|%(25)*(40|3[Ff]|23)"  # before or behind which secrets stand, encoded too
PLAIN: dict[str, JsonValue] = {"pattern": rf"^(?!\s*[A-Za-z][A-Za-z0-9+.-]+:[/\\][\s\S]*({MARKS}))"}
Url = Annotated[str, Field(json_schema_extra={"pattern": rf"^(?![\s\S]*({MARKS}))"})]
SECRET = "holds a user name, a password or a key, which would be kept in run.json and shown"

PRESETS: dict[str, dict[str, Any]] = {
    "conservative": {"target_top_p": 0.90, "stability_threshold_js": 0.4, "stability_threshold_overlap": 0.15},
    "balanced": {},
    "exploratory": {"force_first_token": False, "trust_region": False, "stability_check": False},
}


class Frozen(BaseModel):
    """Base class: immutable, unknown keys are refused, and so are values of another type, such as "1" for 1."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,  # in a deployment's form and in Python as in YAML
        extra="forbid",
        serialize_by_alias=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # Prefect logs an error's text, and a value may hold a secret
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        """Take the lists of JSON and YAML, which have no tuples."""
        if not isinstance(values, dict):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


class MixtureConfig(Frozen):
    """The mixture q* ∝ π_θ^(1-α)·π_t^α of theta and the teacher, with its protections, at every token."""

    preset_name: PresetName = Field(
        "balanced", alias="preset", description="Defaults of the three protections; keys given beside it win."
    )
    alpha_method: AlphaMethod = Field("kl_symmetry", description="What α solves at every token.")
    alpha: float = Field(0.5, ge=0.0, le=1.0, description="The teacher's weight when alpha_method is 'fixed'.")
    force_first_token: bool = Field(True, description="Draw the first token from the teacher (α = 1).")
    trust_region: bool = Field(True, description="Restrict the support to the teacher's top-p set.")
    target_top_p: float = Field(0.95, gt=0.0, le=1.0, description="Teacher mass the trust region keeps.")
    stability_check: bool = Field(True, description="Measure JS and overlap against the thresholds.")
    stability_threshold_js: float = Field(
        0.5, ge=0.0, le=0.6931471805599453, description="Unstable above this Jensen-Shannon divergence, nats."
    )
    stability_threshold_overlap: float = Field(0.1, ge=0.0, le=1.0, description="Unstable below this overlap mass.")
    overlap_top_k: int = Field(20, ge=1, le=1000, description="Size of the two top-k sets overlap looks at.")
    auto_fallback: bool = Field(
        True, description="Draw unstable tokens from the teacher (α = 1); off: only count them."
    )

    merge_endings: bool = Field(
        True, description="Count all ids that end a completion as one event, whichever of them a model would write."
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        """Fill keys that are not given with the preset's."""
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "balanced")
        return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values

    @classmethod
    def preset(cls, name: PresetName, **overrides: Any) -> Self:
        """Return the configuration of a preset, with some keys replaced."""
        return cls.model_validate({"preset": name, **overrides})


class SamplingConfig(Frozen):
    """The draw from q*: number and length of completions, temperature, truncation of q*, stop conditions, seed."""

    n: int = Field(1, ge=1, le=1024, description="Completions a prompt.")
    max_tokens: int = Field(512, ge=1, description="Longest completion, tokens.")
    temperature: float = Field(
        1.0, ge=0.0, le=100.0, description="Applied to both models before mixing; 0 takes the argmax of q*."
    )
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Keep the smallest set of q* with this mass.")
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens of q*; 0 keeps all.")
    min_p: float = Field(0.0, ge=0.0, le=1.0, description="Keep tokens of at least this share of q*'s maximum.")
    stop: tuple[str, ...] = Field((), description="Strings that end a completion; cut from its text.")
    stop_token_ids: tuple[int, ...] = Field((), description="Token ids that end a completion.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the counter-based generator.")

    @model_validator(mode="after")
    def _stop_strings_hold_text(self) -> Self:
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty; remove it")
        return self


def without_secret(address: Address) -> Address:
    """Return a path, a Hub id or a URL, or a list of them. Raises ValueError, which quotes nothing, for a secret in it.

    Passwords and keys stand in a URL's user, query or fragment, however they are encoded.
    """
    for text in (address,) if isinstance(address, str) else address or ():
        if re.match(r"\s*[a-z][a-z0-9+.-]+:[/\\].*[@?#]", unquote(unquote(text)), re.IGNORECASE | re.DOTALL):
            raise ValueError(f"the address {SECRET}; leave it out, and set it as a variable (flows/README.md, Secrets)")
    return address


class ModelConfig(Frozen):
    """One model: its source, precision and devices, or the servers that serve it."""

    has_weights: ClassVar[bool] = True

    model: str = Field(description="A local folder or a Hub id.", json_schema_extra=PLAIN)
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Weights' precision; 'auto' is float32 on a CPU, the model's own on a GPU."
    )
    quantization: str | None = Field(None, description="A quantisation method that vLLM has, e.g. 'fp8'.")
    lora: str | None = Field(
        None,
        description="A LoRA adapter on it, as PEFT saves one: a local folder or a Hub id.",
        json_schema_extra=PLAIN,
    )
    lora_revision: str | None = Field(None, description="Branch, tag or commit of a Hub adapter.")
    trust_remote_code: bool = Field(False, description="Run code that the model's repository ships.")
    max_model_len: int | None = Field(None, ge=8, description="Context, tokens; default: the model's own.")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that the model is split over, a process each.")
    devices: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        description="Its GPUs, as this process counts them; default: the first while each model takes one, else theirs"
        " side by side. On a CPU: numbers of processes, of which 0 is this one.",
    )
    kv_cache_memory_bytes: int | None = Field(
        None, ge=1 << 20, description="KV cache of this model; default: planned for the pair."
    )
    url: Url | tuple[Url, ...] | None = Field(
        None,
        description="Served elsewhere by vLLM: its address, or its replicas'; `model` gives the tokenizer.",
    )
    served_name: str | None = Field(None, description="The name it is served by; default: the last part of `model`.")

    _no_secret = field_validator("model", "lora")(without_secret)

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if any(set("@?#") & set(unquote(unquote(url))) for url in self.urls):
            raise ValueError(f"url {SECRET}; leave it out, and set DUAL_SAMPLING_THETA_API_KEY or …_TEACHER_API_KEY")
        if self.lora is None and self.lora_revision is not None:
            raise ValueError(f"lora_revision {self.lora_revision!r} of no adapter: give lora, or leave it out")
        if self.lora is not None and self.url:
            raise ValueError(
                f"lora {self.lora!r} beside url {self.urls[0]!r}: a server applies its own adapters; start it with"
                " --enable-lora --lora-modules NAME=FOLDER, and give that name as served_name"
            )
        number, devices = self.tensor_parallel_size, self.devices
        if devices is not None and not len(devices) == len(set(devices)) == number:
            raise ValueError(f"devices {list(devices)} for tensor_parallel_size {number}: name {number} different ones")
        if self.url and (number > 1 or devices is not None):
            raise ValueError(
                f"tensor_parallel_size or devices beside url {self.urls[0]!r}: a server is split where it is started"
                " (vllm serve --tensor-parallel-size)"
            )
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of its servers; empty when it is loaded here."""
        return (self.url,) if isinstance(self.url, str) else (self.url or ())


class DummyModel(ModelConfig):
    """A model with random weights in the shapes of its config.json, without a tokenizer; for benchmarks.

    A class, not a key of ModelConfig, so that no pipeline can be configured to sample a dataset from it.
    """

    has_weights: ClassVar[bool] = False


class EngineConfig(Frozen):
    """The resources of the two engines: batch, memory, scheduling, compilation."""

    max_num_seqs: int = Field(64, ge=1, le=4096, description="Rows in flight at once.")
    max_num_batched_tokens: int = Field(8192, ge=64, description="Prompt tokens a step may prefill.")
    gpu_memory_utilization: float = Field(
        0.9, gt=0.05, le=1.0, description="Share of the device's memory that the pair may use."
    )
    enable_prefix_caching: bool = Field(True, description="Reuse the KV cache of shared prompt prefixes.")
    async_scheduling: bool | None = Field(
        None, description="Launch a step before the last one's tokens are on the host; default: on a GPU."
    )
    torch_compile: bool = Field(
        True, description="Compile the models on a GPU, as vLLM does: faster steps, minutes at the first load."
    )
