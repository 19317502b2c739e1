"""One model behind a real vLLM server: what it says is what transformers computes."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sampling.errors import ConfigurationError, EmptyPromptError, PromptTooLongError, ServerRefusedError
from sampling.served.client import ModelClient
from sampling.served.config import HttpConfig, key_variable
from sampling.served.server_info import NUM_NAMED_IDS, ServerFacts
from tests.sampling.served.conftest import FAST
from tests.sampling.served.proxy import Proxy, status
from tests.sampling.served.proxy import body as with_body
from tests.sampling.served.servers import Server

PROMPTS = [[1, 2, 3], [200], [72, 101, 108, 108, 111], list(range(100, 250))]


@pytest.fixture(scope="module")
def expected(teacher: Server) -> list[np.ndarray]:
    """transformers' logprobs [264] float64 of the token after each of PROMPTS."""
    model = AutoModelForCausalLM.from_pretrained(teacher.folder, dtype=torch.float32)
    with torch.inference_mode():
        rows = [model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1) for prompt in PROMPTS]
    return [row.numpy() for row in rows]


async def test_the_servers_facts_are_discovered(servers: tuple[Server, Server]) -> None:
    for server, columns in zip(servers, (264, 272), strict=True):
        async with ModelClient(server.model, [server.url + "/v1/"], FAST) as client:
            assert client.info == ServerFacts(server.model, 512, columns, columns, True, "any")
            assert client.info.version == "0.32.0" or client.info.version[0].isdigit()


async def test_the_whole_distribution_is_that_of_transformers(teacher: Server, expected: list[np.ndarray]) -> None:
    async with ModelClient("teacher", [teacher.url], FAST) as client:
        for prompt, logprobs in zip(PROMPTS, expected, strict=True):
            token = await client.next_token(prompt, -1)
            assert token.num_top == 264
            assert sorted(token.ids) == list(range(264))
            assert token.ids.dtype == np.int64
            np.testing.assert_allclose(token.logprobs, logprobs[token.ids], atol=1e-4)
            assert (np.diff(token.logprobs) <= 0).all()


async def test_top_k_and_named_ids_come_in_this_order(teacher: Server, expected: list[np.ndarray]) -> None:
    async with ModelClient("teacher", [teacher.url], FAST) as client:
        for prompt, logprobs in zip(PROMPTS, expected, strict=True):
            likeliest = np.argsort(-logprobs, kind="stable")
            before = client.num_requests
            named = [int(likeliest[0]), int(likeliest[200]), 263, 0, int(likeliest[200])]
            token = await client.next_token(prompt, 5, named)
            assert token.num_top == 5
            assert token.ids[:5].tolist() == likeliest[:5].tolist()
            beyond = [name for name in dict.fromkeys(named) if name not in likeliest[:5]]
            assert token.ids[5:].tolist() == beyond
            np.testing.assert_allclose(token.logprobs, logprobs[token.ids], atol=1e-4)
            assert client.num_requests - before == 2
            again = await client.next_token(prompt, 5, [int(likeliest[1])])
            assert (len(again.ids), client.num_requests - before) == (5, 3)  # nothing is missing: one request


async def test_named_ids_alone_come_in_as_many_requests_as_they_need(
    teacher: Server, expected: list[np.ndarray]
) -> None:
    async with ModelClient("teacher", [teacher.url], FAST) as client:
        before = client.num_requests
        named = list(range(263, -1, -1))
        token = await client.next_token(PROMPTS[2], 0, named)
        assert token.num_top == 0
        assert token.ids.tolist() == named
        np.testing.assert_allclose(token.logprobs, expected[2][named], atol=1e-4)
        assert client.num_requests - before == -(-264 // NUM_NAMED_IDS)


def test_a_request_names_no_more_ids_than_this_vllm_takes() -> None:
    from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS

    assert NUM_NAMED_IDS <= MAX_LOGPROB_TOKEN_IDS


async def test_named_ids_and_top_k_in_flight_together_are_both_right(proxy: Proxy, expected: list[np.ndarray]) -> None:
    """vLLM 0.32 mixes them up where they share a batch; id 0 is what it fills shorter lists of names up with."""
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        before = client.num_retries
        named = [[0], [0, 7, 9], list(range(40)), [5, 0]]
        work = [client.next_token(PROMPTS[2], 0, ids) for ids in named * 12]
        work += [client.next_token(PROMPTS[2], 5) for _ in range(48)]
        tokens = await asyncio.gather(*(work[place] for place in np.random.default_rng(0).permutation(len(work))))
        assert client.num_retries == before
    for token in tokens:
        np.testing.assert_allclose(token.logprobs, expected[2][token.ids], atol=1e-4)
        assert token.num_top == 5 or 0 in token.ids


async def test_an_id_0_that_another_request_may_have_hidden_is_not_taken_for_impossible(
    proxy: Proxy, expected: list[np.ndarray]
) -> None:
    def hide(raw: bytes) -> bytes:
        reply = json.loads(raw)
        reply["choices"][0]["logprobs"]["top_logprobs"][0]["token_id:0"] = -9999.0
        return json.dumps(reply).encode()

    async with ModelClient("teacher", [proxy.url], FAST) as client:
        proxy.faults.append(with_body(hide))
        token = await client.next_token(PROMPTS[2], 0, [3, 0, 4])
    assert token.ids.tolist() == [3, 4]
    np.testing.assert_allclose(token.logprobs, expected[2][[3, 4]], atol=1e-4)


async def test_eos_is_a_token_like_any_other(teacher: Server, expected: list[np.ndarray]) -> None:
    async with ModelClient("teacher", [teacher.url], FAST) as client:
        token = await client.next_token(PROMPTS[0], 3, [256])
        assert abs(token.logprobs[list(token.ids).index(256)] - expected[0][256]) < 1e-4
        after = await client.next_token([*PROMPTS[0], 256, 256], 3)
        assert np.isfinite(after.logprobs).all()


async def test_no_request_has_a_seed_or_leaves_a_sampling_parameter_to_the_server(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        await client.next_token([1, 2], 4, [7])
    bodies = [json.loads(request["body"]) for request in proxy.requests if request["path"] == "/v1/completions"]
    assert len(bodies) == 4
    for body in bodies:
        assert "seed" not in body
        assert body.items() >= {"max_tokens": 1, "temperature": 0, "top_p": 1, "top_k": 0, "ignore_eos": True}.items()


async def test_tokenize_is_the_servers_own_without_special_tokens(teacher: Server) -> None:
    from transformers import AutoTokenizer

    text = 'héllo\n<|endoftext|> "\\ 漢'
    wanted = AutoTokenizer.from_pretrained(teacher.folder)(text, add_special_tokens=False)["input_ids"]
    async with ModelClient("teacher", [teacher.url], FAST) as client:
        assert await client.tokenize(text) == wanted


async def test_prompts_that_no_server_takes_are_the_rows_matter(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        posts = proxy.posts()
        with pytest.raises(EmptyPromptError):
            await client.next_token([], 5)
        with pytest.raises(PromptTooLongError, match=r"prompt of 512 tokens.*max_model_len of 512"):
            await client.next_token([1] * 512, 5)
        assert proxy.posts() == posts  # known without asking
        assert (await client.next_token([1] * 511, 5)).num_top == 5
        # a server that was started again with less says so itself
        object.__setattr__(client.info, "max_model_len", 1024)
        with pytest.raises(PromptTooLongError, match="maximum context length is 512 tokens"):
            await client.next_token([1] * 600, 5)
        assert client.num_retries == 0


async def test_what_the_server_refuses_is_said_once_in_one_line(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        posts = proxy.posts()
        with pytest.raises(ServerRefusedError, match=r"HTTP 400: Token id 999 is out of vocabulary") as caught:
            await client.next_token([999], 5)
        assert "\n" not in str(caught.value)
        assert proxy.posts() == posts + 1
        proxy.faults.append(status(422, b"<html>\n" + b"\x1b[31mno\x00 " * 1000))
        with pytest.raises(ServerRefusedError, match=r"HTTP 422: <html> \[31mno .* …$") as caught:
            await client.next_token([1], 5)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


async def test_fewer_logprobs_than_asked_for_are_refused_with_the_option(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        object.__setattr__(client.info, "max_logprobs", 20)
        with pytest.raises(ServerRefusedError, match="gives 20 logprobs, not 264; start it with --max-logprobs 264"):
            await client.next_token([1], -1)
        object.__setattr__(client.info, "can_name_ids", False)
        with pytest.raises(ServerRefusedError, match="logprob_token_ids"):
            await client.next_token([1], 2, [3, 4, 5])


async def test_a_server_with_few_logprobs_says_how_many_and_how_many_ids_it_has(proxy: Proxy) -> None:
    message = "Requested sample logprobs of 151936, which is greater than max allowed: 20 (parameter=logprobs)"
    proxy.faults.append(status(400, json.dumps({"error": {"message": message}}).encode()))
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        assert (client.info.vocab_size, client.info.max_logprobs) == (151936, 20)


async def test_a_model_that_is_not_served_is_refused_with_both_names(teacher: Server, theta: Server) -> None:
    with pytest.raises(ServerRefusedError, match="serves teacher, not Qwen/Qwen3-14B"):
        await ModelClient("teacher", [teacher.url], FAST, served_name="Qwen/Qwen3-14B").__aenter__()
    with pytest.raises(ServerRefusedError, match=r"disagree: .*(teacher and theta|theta and teacher)") as caught:
        await ModelClient("teacher", [teacher.url, theta.url], FAST).__aenter__()
    assert teacher.url in str(caught.value)
    assert theta.url in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://me:s3cret@localhost:9000", "user, a password"),
        ("http://localhost:9000/v1?key=s3cret", "query"),
        ("localhost:9000", "give http"),
        ("ftp://localhost", "give http"),
        ("http://local host:9000\n", "none"),
    ],
)
def test_urls_that_are_none_or_hold_a_secret_are_refused_without_quoting_it(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        ModelClient("teacher", [url], FAST)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="no URL"):
        ModelClient("teacher", [], FAST)


async def test_cancelled_requests_end_on_the_server(teacher: Server) -> None:
    """vLLM aborts what nobody waits for: far fewer requests finish than were sent, none goes on."""
    finished = 'vllm:request_success_total{engine="0",finished_reason="length"'
    config = FAST.model_copy(update={"max_in_flight": 256})

    async def metric(name: str) -> float:
        return await asyncio.to_thread(teacher.metric, name)  # the requests go on meanwhile

    async def busy() -> float:
        return await metric("vllm:num_requests_running") + await metric("vllm:num_requests_waiting{")

    async with ModelClient("teacher", [teacher.url], config) as client:
        before = await metric(finished)
        rows = [asyncio.create_task(client.next_token([i % 250] + [7] * 500, -1)) for i in range(200)]
        await asyncio.wait(rows, return_when=asyncio.FIRST_COMPLETED)
        for row in rows:
            row.cancel()
        ended = await asyncio.gather(*rows, return_exceptions=True)
        num_cancelled = sum(isinstance(end, asyncio.CancelledError) for end in ended)
        assert num_cancelled > 100
        async with asyncio.timeout(10):
            while await busy():
                await client.next_token([1], 3)  # the engine reports what it holds when it steps
        assert await metric(finished) - before < 100
        # the connections that were cut are replaced
        tokens = await asyncio.gather(*(client.next_token([i], 3) for i in range(100)))
        assert [token.num_top for token in tokens] == [3] * 100
        assert all(replica.in_flight == 0 for replica in client._replicas.all)


async def test_requests_in_flight_have_a_limit(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST.model_copy(update={"max_in_flight": 3})) as client:
        most = 0

        async def row(i: int) -> None:
            nonlocal most
            await client.next_token([i], 2)
            most = max(most, client._replicas.all[0].in_flight + 1)

        await asyncio.gather(*(row(i) for i in range(30)))
        assert most == 3
        assert len(client._wire.connections) <= 4  # the check's own, then three


def test_settings_are_frozen_and_their_keys_variable_is_spelt_out() -> None:
    with pytest.raises(ValueError, match="request_timeout_s"):
        HttpConfig(request_timeout_s=0)
    assert key_variable("theta") == "DUAL_SAMPLING_THETA_API_KEY"
