"""The pipeline's configuration: frozen pydantic models, one per section of the YAML file."""

from __future__ import annotations

from typing import Literal, Self

from huggingface_hub.utils import validate_repo_id
from pydantic import Field, field_validator, model_validator

from sampling.bounds import Bounds
from sampling.config import PLAIN, EngineConfig, Frozen, MixtureConfig, ModelConfig, SamplingConfig, without_secret
from sampling.served.config import HttpConfig
from validations.limits import LIMIT_PRESETS, Limits
from validations.suites import check_names

# Of a chat template's variables, and of the function that renders it, those that are no choice of the configuration.
CHAT_ARGUMENTS = {
    *("messages", "conversations", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "return_assistant_tokens_mask"),
}


class SourceConfig(Frozen):
    """The origin of the rows: exactly one of `path` and `hub`."""

    path: str | tuple[str, ...] | None = Field(
        None, description="Local file, folder or glob (json, jsonl, csv, tsv, parquet, arrow, txt), or a list of them."
    )
    hub: str | None = Field(None, description="A dataset's id on the Hub: org/name.")
    subset: str | None = Field(None, description="The Hub dataset's configuration name, or a folder in `path`.")
    split: str = Field("train", description="The split, of a local folder by its files' names: data/test-*, dev.jsonl.")
    revision: str | None = Field(None, description="The Hub dataset's branch, tag or commit.")
    adapter: str = Field("auto", description="auto, a known format's name, or package.module:Class.")
    columns: dict[str, str] | None = Field(
        None,
        description="Own mapping, field → column or path (a.b.0): question; answer, solution, final_answer, system, "
        "history, tools, context.",
    )
    limit: int | None = Field(None, ge=1, description="Take the first rows only.")

    _no_secret = field_validator("path", "hub")(without_secret)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of source.path and source.hub")
        if self.path is not None and self.revision is not None:
            raise ValueError("source.revision is for source.hub; files beside source.path have none: remove it")
        return self


class PromptConfig(Frozen):
    """The template of one model's prompt."""

    style: Literal["chat", "plain"] = Field(
        "chat", description="chat: the model's own chat template around `template`; plain: `template` alone."
    )
    template: str = Field(min_length=1, description="Jinja, rendered in a sandbox, over the row's fields.")
    system: str | None = Field(
        None, description="System message of the chat style: Jinja like `template`; blank text: none."
    )
    chat_template_kwargs: dict[str, bool | int | float | str | None] = Field(
        {},
        exclude_if=lambda given: not given,  # identities from before it stay valid
        description="Variables of the model's chat template, e.g. enable_thinking: false.",
    )

    @model_validator(mode="after")
    def _chat_keys_need_chat(self) -> Self:
        if self.style == "plain":
            if self.system is not None:
                raise ValueError("system is for style: chat; put the text into the plain template instead")
            if self.chat_template_kwargs:
                raise ValueError("chat_template_kwargs are for style: chat; a plain prompt has no chat template")
        if taken := sorted(CHAT_ARGUMENTS & self.chat_template_kwargs.keys()):
            raise ValueError(f"chat_template_kwargs cannot set {', '.join(taken)}, which the row or the prompt sets")
        return self


class PromptsConfig(Frozen):
    """Both models' prompts; None takes the source adapter's default."""

    teacher: PromptConfig | None = None
    theta: PromptConfig | None = None


class ModelsConfig(Frozen):
    """The two models."""

    teacher: ModelConfig
    theta: ModelConfig

    @model_validator(mode="after")
    def _both_or_none_is_served(self) -> Self:
        if bool(self.teacher.urls) != bool(self.theta.urls):
            raise ValueError("one of models.teacher.url and models.theta.url is missing; give both, or neither")
        return self


class ShardsConfig(Frozen):
    """The cutting of the rows into shards, and their scheduling."""

    rows: int = Field(1000, ge=1, description="Rows a shard.")
    retries: int = Field(3, ge=0, le=100, description="Fresh engines a shard is given after its first one dies.")
    retry_delay_s: float = Field(1.0, ge=0.0, description="First pause before a retry; doubles each time.")
    stall_timeout_s: float = Field(
        600.0, ge=1.0, description="Longest wait for any sign of progress, seconds; then the engine counts as dead."
    )
    run_on: Literal["here", "deployment"] = Field(
        "here", description="deployment: runs of `deployment` sample the shards, one engine each, on any worker."
    )
    deployment: str = Field(
        "sample-shards/sample-shards", pattern=r"^sample-shards/[^/]+$", description="Which one: sample-shards/NAME."
    )
    max_runs: int | None = Field(
        None, ge=1, description="Runs of it at once; default: as many as its pool has workers."
    )
    lost_timeout_s: float = Field(
        90.0, ge=10.0, description="Longest silence of such a run, seconds; then it counts as lost, and is replaced."
    )


class MetricsConfig(Frozen):
    """The Prometheus exporter of the engine's metrics."""

    port: int | None = Field(None, ge=1, le=65535, description="Serve them over HTTP; default: not at all.")
    address: str = Field("127.0.0.1", description="Which of the machine's addresses; 0.0.0.0 is all of them.")


class PublishConfig(Frozen):
    """The destinations of the dataset."""

    root: str = Field(
        "published", min_length=1, description="Folder that holds <name>/<version>/.", json_schema_extra=PLAIN
    )
    version: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Default: the run's identity, 12 hex digits."
    )
    hub: str | None = Field(
        None, pattern=r"^[^/\s]+/[^/\s]+$", description="Dataset on the Hugging Face Hub, org/name, that gets a copy."
    )
    hub_private: bool = Field(True, description="Whether it must be private; it is made so where there is none.")

    _no_secret = field_validator("root", "hub")(without_secret)

    @field_validator("hub")
    @classmethod
    def _is_repository(cls, hub: str | None) -> str | None:
        if hub is not None:
            validate_repo_id(hub)  # raises a ValueError that says what an id looks like
        return hub


class PipelineConfig(Frozen):
    """The configuration of one run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96, description="The dataset's name.")
    source: SourceConfig
    models: ModelsConfig
    prompts: PromptsConfig = PromptsConfig()
    mixture: MixtureConfig = MixtureConfig.preset("balanced")
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    http: HttpConfig = HttpConfig()
    shards: ShardsConfig = ShardsConfig()
    metrics: MetricsConfig = MetricsConfig()
    bounds: Bounds = Bounds()
    validation: Limits = Limits()
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: object) -> object:
        """Take the defaults of a section that is null (or blank), and limits not given from the mixture's preset."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        values = {key: value for key, value in values.items() if not (value is None and key in optional)}
        mixture, limits = values.get("mixture"), values.get("validation")
        given = mixture.model_dump() if isinstance(mixture, MixtureConfig) else mixture
        preset = given.get("preset") if isinstance(given, dict) else None
        if not isinstance(limits, dict | None) or not isinstance(preset, str):
            return values
        return {**values, "validation": {**LIMIT_PRESETS.get(preset, {}), **(limits or {})}}

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        known = check_names()
        for name in self.validation.severity:
            if name not in known:
                raise ValueError(
                    f"validation.severity names {name!r}, which is no check; there are: {', '.join(known)}"
                )
        if self.name == "refused":
            raise ValueError("'refused' is the folder of refused datasets; choose another name")
        return self
