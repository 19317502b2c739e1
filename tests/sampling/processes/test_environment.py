"""The environment that a child process is given: whatever looks like a secret stays here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampling.processes.environment import environment, private, without_secrets

NAMES = """HF_TOKEN HUGGING_FACE_HUB_TOKEN WANDB_API_KEY PREFECT_API_KEY PREFECT_API_AUTH_STRING AWS_ACCESS_KEY_ID
AWS_SESSION_TOKEN AWS_PROFILE AZURE_STORAGE_CONNECTION_STRING PGPASSWORD DUAL_SAMPLING_THETA_API_KEY VLLM_API_KEY
GITHUB_PAT MYSQL_PWD my_secret DB_PASSWD GOOGLE_APPLICATION_CREDENTIALS OPENAI_APIKEY SSH_AUTH_SOCK KEYS
GPG_PASSPHRASE TOKEN1 API_KEY2 JWT MY_SECRET1 SECRETKEYBASE CLIENTSECRET BASIC_AUTH2 DB_DSN SLACK_WEBHOOK PASSWD2 PASS1
MYSQLPWD2 GITLAB_PAT2 DBPASSWORD1 AUTHORIZATION JWT2 CREDS TOKENS_OF_MINE X_PRIVATE_PEM SIGNING_SALT ACCESSKEYID
NPM_CONFIG__AUTH CONNECTIONSTRING1 SENTRYDSN VLLM_TOKEN1"""
SECRETS = dict.fromkeys(NAMES.split(), "s3cret") | {
    "DATABASE_URL": "postgresql+asyncpg://u:s3cret@host/db",
    "https_proxy": "http://u:s3cret@proxy:3128",
    "DB_ADDRESS": "user:s3cret@tcp(host)/db",
    "HUB": "hf_s3cret",
    "PEM": "-----BEGIN RSA PRIVATE KEY-----\ns3cret",
}
PLAIN = {
    "TOKENIZERS_PARALLELISM": "false",
    "PWD": "/",
    "OLDPWD": "/",
    "CUDA_VISIBLE_DEVICES": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "HTTP_PROXY": "http://proxy:3128",
    "DUAL_SAMPLING_ALLOW_CODE": "0",
    "PATTERN": "a@b",
    "GIT_AUTHOR_NAME": "a",
    "LD_LIBRARY_PATH": "/opt/gcc@12/lib:/opt/cuda@13/lib",
    "NCCL_SOCKET_IFNAME": "eth0",
    "OMP_NUM_THREADS": "2",
    "SSL_CERT_FILE": "/etc/ssl/cert.pem",
    "VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE": "1",
    "VLLM_WSL2_ENABLE_PIN_MEMORY": "1",
    "COMPILE_PASSES": "1",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRETS | PLAIN).items():
        monkeypatch.setenv(name, value)


def test_secrets_stay_here() -> None:
    given = environment(MORE="1")
    assert [name for name, value in given.items() if "s3cret" in value] == []
    assert {name: given.get(name) for name in PLAIN} == PLAIN
    assert given["MORE"] == "1"


def test_those_that_are_named_are_handed_on() -> None:
    given = environment(["AWS_", "HTTPS_PROXY", "DUAL_SAMPLING_THETA_API_KEY"])
    assert {name for name, value in given.items() if "s3cret" in value} == {
        *(name for name in SECRETS if name.startswith("AWS_")),
        *("https_proxy", "DUAL_SAMPLING_THETA_API_KEY"),
    }


def test_hidden_secrets_come_back() -> None:
    before = dict(os.environ)
    with without_secrets(["PREFECT_"]):
        assert {name for name in SECRETS if name in os.environ} == {"PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"}
    assert dict(os.environ) == before


def test_a_log_is_for_its_user_alone(tmp_path: Path) -> None:
    (tmp_path / "old.log").write_text("x")
    (tmp_path / "link.log").symlink_to(tmp_path / "elsewhere")
    for name in ("a.log", "old.log"):
        with open(tmp_path / name, "ab", opener=private) as log:
            log.write(b"x")
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="symbolic links"):
        private(str(tmp_path / "link.log"), os.O_WRONLY | os.O_CREAT)
    assert not (tmp_path / "elsewhere").exists()
