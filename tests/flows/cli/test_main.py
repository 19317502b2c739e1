"""Tests of the command line: exit codes, one line per error, the published path last."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from flows.cli import main as cli
from flows.orchestration.signals import TERMINATED
from tests.flows.commands import Run, the_line
from tests.tiny import LAX, byte_tokenizer, make_model

PLAIN = {
    "teacher": {"style": "plain", "template": "Q: {{ question }}\nHint: {{ answer }}\nA:"},
    "theta": {"style": "plain", "template": "Q: {{ question }}\nA:"},
}
GOOD = [{"question": f"What is {i} + {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(6)]
ROOT = Path(cli.__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    return path


@pytest.fixture
def config(tmp_path: Path, source: Path, tiny_pair: tuple[Path, Path]) -> Path:
    teacher, theta = tiny_pair
    values = {
        "name": "cli",
        "source": {"path": str(source)},
        "prompts": PLAIN,
        "models": {"teacher": {"model": str(teacher)}, "theta": {"model": str(theta)}},
        "sampling": {"max_tokens": 8},
        "shards": {"rows": 4, "retry_delay_s": 0.0},
        "validation": LAX,
        "publish": {"root": str(tmp_path / "published")},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# Wrong input, found before a model is loaded: exit code 2, one line on stderr.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mixture.preset=bold"], "mixture.preset: 'bold' is not allowed: Input should be 'conservative', 'balanced'"),
        (["source.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["models.theta.model=nowhere"], "'nowhere'"),
        (["models.theta.model={tmp_path}"], "holds no config.json"),
        (["prompts.theta.template=Q: {{% if %}}"], "prompts.theta"),
        (["publish.root={source}/sub"], "rows.jsonl"),
        (["samplng.n=2"], "samplng: {'n': 2} is not allowed: Extra inputs are not permitted; did you mean sampling?"),
    ],
)
def test_bad_configuration_is_one_line_and_exit_code_2(
    run: Run, config: Path, source: Path, tmp_path: Path, overrides: Sequence[str], message: str
) -> None:
    sets = [arg for text in overrides for arg in ("--set", text.format(tmp_path=tmp_path, source=source))]
    code, out, err = run("produce", config, *sets)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert message in the_line(err)
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_dataset_is_one_line_and_exit_code_2(run: Run, config: Path, source: Path, content: bytes) -> None:
    source.write_bytes(content)
    code, out, err = run("produce", config)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert "rows.jsonl" in the_line(err)


def test_an_unrecognised_format_lists_columns_with_known_formats(run: Run, config: Path, source: Path) -> None:
    source.write_text('{"colour": "red", "size": 3}\n')
    code, _, err = run("produce", config)
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert all(text in the_line(err) for text in ("colour", "size", "gsm8k"))


def test_tokenizers_that_disagree_are_one_line_and_exit_code_2(run: Run, config: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=5, tokenizer=byte_tokenizer(extra=("zzz",)))
    code, out, err = run("produce", config, "--set", f"models.theta.model={other}")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert "share no vocabulary" in the_line(err)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["publish"],
        ["produce"],
        ["produce", "c.yaml", "--dry-run", "0"],
        ["produce", "c.yaml", "--sett", "a=b"],
        ["sample", "hello"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, argv: list[str]) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("usage: dual-sampling")


def test_a_missing_configuration_is_one_line(run: Run, tmp_path: Path) -> None:
    code, out, err = run("produce", tmp_path / "nope.yaml")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert the_line(err) == f"{tmp_path}/nope.yaml: No such file or directory; give the path of a YAML file"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "--temperature: -1.0 is not allowed"),
        (["--alpha", "2"], "--alpha: 2.0 is not allowed"),
        (["--preset", "bold"], "--preset: 'bold' is not allowed: Input should be 'conservative', 'balanced' or"),
        (["--max-tokens", "0"], "--max-tokens: 0 is not allowed"),
    ],
)
def test_sample_refuses_what_the_engine_would(run: Run, options: list[str], message: str) -> None:
    code, out, err = run("sample", "--teacher", "a", "--theta", "b", *options, "question")
    assert (code, out) == (2, "")
    assert the_line(err).startswith(message)


# Other errors.


def test_an_unexpected_error_is_one_line_with_a_log(run: Run, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug\nof two lines\x1b[2J")

    monkeypatch.setattr("flows.cli.configuration.load_config", broken)
    code, out, err = run("produce", config)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    line = the_line(err)
    assert line.startswith(r"ZeroDivisionError: a bug of two lines\x1b[2J (traceback in ")
    log = Path(line.removesuffix(")").rpartition(" ")[2])
    assert "in broken" in log.read_text()
    log.unlink()
    code, _, err = run("produce", config, "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "traceback in" not in err


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt(), 1), (SystemExit(TERMINATED), TERMINATED)])
def test_ctrl_c_and_sigterm_are_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, config: Path, raised: BaseException, status: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("flows.cli.configuration.load_config", interrupted)
    code, out, err = run("produce", config)
    assert (code, out) == (status, "")
    assert the_line(err) == "interrupted; what is finished is kept, and the same command goes on from there"


# The dry run.


def test_the_dry_run_shows_both_prompts_and_samples_nothing(
    run: Run, config: Path, source: Path, tmp_path: Path
) -> None:
    lines = source.read_text().splitlines()
    source.write_text("\n".join([lines[0], "{not json", '{"question": "\\u001b[2Jx", "answer": "y"}', *lines[1:]]))
    code, out, err = run("produce", config, "--dry-run", "2")
    assert (code, err) == (0, "")
    assert "format: gsm8k" in out
    assert "columns: question, answer" in out
    assert "│ Q: What is 0 + 0?\n  │ Hint: It is 0.\n  │ #### 0\n  │ A:\n" in out
    assert "│ Q: What is 0 + 0?\n  │ A:\n" in out
    assert f"quarantined: {source}:2: " in out
    assert "\x1b" not in out
    assert out.count("\nrow ") == 2
    assert re.search(r"\nmemory: theta's weights .* = .* of .* that are free\n", out)
    assert out.endswith("\nNothing was sampled.\n")
    assert not (tmp_path / "published").exists()


def test_the_dry_run_shows_three_rows_by_default(run: Run, config: Path) -> None:
    code, out, _ = run("produce", config, "--dry-run")
    assert code == 0
    assert out.count("\nrow ") == 3


def test_the_dry_run_says_that_leaks_are_not_judged(run: Run, config: Path, source: Path) -> None:
    source.write_text('{"text": "What is 2 + 2?"}\n')
    plain = [f"prompts.{side}.template=Q: {{{{ question }}}}" for side in ("theta", "teacher")]
    code, out, _ = run("produce", config, "--dry-run", *(arg for text in plain for arg in ("--set", text)))
    assert code == 0
    assert "\nleaks not judged: no reference" in out


def test_the_dry_run_refuses_a_pair_that_cannot_fit(run: Run, config: Path) -> None:
    """The prompts are printed before the error."""
    code, out, err = run("produce", config, "--dry-run", "--set", "models.theta.kv_cache_memory_bytes=1000000000000000")
    assert code == 2
    assert out.count("\nrow ") == 3
    assert re.search(
        r"theta and teacher cannot fit: .* theta's KV cache 931322\.6 GiB .* that are free; lower ", the_line(err)
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("models.theta.tensor_parallel_size=3", "2 attention heads, which tensor_parallel_size 3 does not divide"),
        ("models.theta.max_model_len=100000", "max_model_len 100,000 exceeds the 1,024 tokens"),
        ("sampling.max_tokens=1024", "max_tokens 1024 leaves no room for a prompt in a context of 1024 tokens"),
        ("models.theta.lora_revision=main", "lora_revision 'main' of no adapter"),
        ("sampling.stop_token_ids=[9999]", "stop_token_ids [9999] are no ids of this vocabulary"),
    ],
)
def test_the_dry_run_refuses_what_loading_would(run: Run, config: Path, setting: str, message: str) -> None:
    code, _, err = run("produce", config, "--dry-run", "--set", setting)
    assert code == 2
    assert message in err


def test_the_dry_run_plans_models_in_workers(run: Run, config: Path) -> None:
    code, out, _ = run("produce", config, "--dry-run", "--set", "models.theta.devices=[1]")
    assert code == 0
    assert "\nmemory: theta's weights " in out


def test_the_dry_run_of_rows_that_all_fail_is_an_error(run: Run, config: Path, source: Path) -> None:
    source.write_text('{"question": null, "answer": "y"}\n{"question": "", "answer": "y"}\n')
    code, _, err = run("produce", config, "--dry-run")
    assert code == 2
    assert "null_field" in the_line(err)


# Complete runs with real models.


@pytest.mark.slow
def test_a_messy_source_is_published_with_its_good_rows(run: Run, config: Path, source: Path, tmp_path: Path) -> None:
    """Every kind of bad row is counted; a failed gate, a taken version and a context too short are refused."""
    messy = [
        *(json.dumps(row).encode() for row in GOOD),
        b'{"answer": "#### 1"}',
        b'{"question": "", "answer": "#### 1"}',
        b'{"question": null, "answer": "#### 1"}',
        b"{not json",
        b'{"question": "\xff", "answer": "#### 1"}',
        json.dumps({"question": "long " * 400, "answer": "#### 1"}).encode(),
    ]
    source.write_bytes(b"\n".join(messy))
    version = ("--set", "publish.version=v1")

    code, out, err = run(
        "produce", config, *version, "--set", "validation.eos_rate_min=1.0", "--output", tmp_path / "a"
    )
    assert code == 3, err
    assert "expect_column_values_to_be_between(eos_rate): limit ≥ 1, value " in the_line(err)
    assert not (tmp_path / "a" / "cli" / "v1").exists()
    assert (tmp_path / "a" / "refused" / "cli" / "v1" / "report.json").exists()

    code, out, err = run("produce", config, *version, "--output", tmp_path / "a")
    assert code == 0, err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == str(tmp_path / "a" / "cli" / "v1")
    dataset = Path(out.splitlines()[-1])
    rows = [row for file in sorted(dataset.glob("data/*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert [row["question"] for row in rows] == [row["question"] for row in GOOD]
    quarantine = json.loads((dataset / "manifest.json").read_text())["quarantine"]
    assert sum(quarantine.values()) == len(messy) - len(GOOD)
    assert quarantine["prompt_too_long"] == 1

    code, out, err = run("produce", config, *version, "--set", "sampling.seed=1", "--output", tmp_path / "a")
    assert (code, out) == (2, "")
    assert "v1" in the_line(err)

    code, out, err = run("produce", config, "--set", "sampling.max_tokens=5000")
    assert (code, out) == (2, "")
    assert "max_tokens 5000" in the_line(err)


@pytest.mark.slow
def test_interrupted_work_is_kept(config: Path, tmp_path: Path) -> None:
    """Ctrl-C while sampling: one line, exit code 1, no process left, the finished rows on disk."""
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "produce",
        str(config),
        "--set",
        "sampling.n=64",
        "--set",
        "sampling.max_tokens=100",
    ]
    log = tmp_path / "stderr"
    with log.open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=err,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job of a shell may ignore it
        )
        try:
            wait_for(lambda: bool(parts_in(tmp_path)), process)
            os.killpg(process.pid, signal.SIGINT)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out) == (1, b"")
    assert the_line(log.read_text()) == "interrupted; what is finished is kept, and the same command goes on from there"
    assert parts_in(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def parts_in(folder: Path) -> list[Path]:
    return list(folder.glob("published/cli/.work/*/shards/*/parts/*.parquet"))


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], limit_s: float = 300.0) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        assert process.poll() is None, "the run ended before it was interrupted"
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_sample_streams_to_a_pipe(tiny_pair: tuple[Path, Path], run: Run) -> None:
    teacher, theta = tiny_pair
    code, out, err = run("sample", "--teacher", teacher, "--theta", theta, "--max-tokens", 12, "2 + 2?")
    assert code == 0, err
    assert "\x1b" not in out
    assert out.endswith("\n")
    assert "mean logprob q" in err.splitlines()[-1]


# In a process of its own.


def process(*command: str, stdout: int = subprocess.PIPE) -> tuple[int, str, str]:
    """Run Python in the repository's root; return exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_help_does_not_load_the_heavy_libraries() -> None:
    code = (
        "import sys\nfrom flows.cli.main import main\n"
        "try: main(['produce', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'prefect', 'great_expectations', 'transformers', 'datasets', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    status, out, err = process("-c", code)
    assert (status, err) == (0, "")
    assert "--dry-run" in out


def test_an_error_of_a_process_is_one_line(tmp_path: Path) -> None:
    status, out, err = process("-m", "flows.cli", "produce", str(tmp_path / "nope.yaml"))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "nope.yaml" in the_line(err)


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    """No message, not even of the interpreter, which flushes stdout once more at exit."""
    code = (
        "import sys\nimport flows.cli.configuration as configuration\nfrom flows.cli.main import main\n"
        "configuration.load_config = lambda *_, **__: print('a', flush=True)\n"
        "sys.exit(main(['produce', 'c.yaml']))"
    )
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -0` does
    status, _, err = process("-c", code, stdout=writer)
    os.close(writer)
    assert (status, err) == (1, "")
