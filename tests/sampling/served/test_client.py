"""ModelClient on a real vLLM server, compared with transformers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
import transformers

from sampling.errors import PromptTooLongError, ServerRefusedError
from sampling.served.server_info import NUM_NAMED_IDS, ServerInfo
from tests.sampling.served.conftest import FAST, connected
from tests.sampling.served.servers import Server

pytestmark = pytest.mark.slow

PROMPTS = [[1, 2, 3], [200], [72, 101, 108, 108, 111], list(range(100, 250))]


@pytest.fixture(scope="module")
def expected(teacher: Server) -> list[np.ndarray]:
    """transformers' logprobs [264] float64 of the token after each of PROMPTS."""
    model = transformers.AutoModelForCausalLM.from_pretrained(teacher.folder, dtype=torch.float32)
    with torch.inference_mode():
        rows = [model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1) for prompt in PROMPTS]
    return [row.numpy() for row in rows]


async def test_the_servers_info_is_discovered(servers: tuple[Server, Server]) -> None:
    for server, columns in zip(servers, (264, 272), strict=True):
        async with connected(server.url + "/v1/", name=server.model) as client:
            assert client.info == ServerInfo(server.model, 512, columns, columns, True, "any")
            assert client.info.version == "0.32.0" or client.info.version[0].isdigit()


async def test_the_whole_distribution_is_that_of_transformers(teacher: Server, expected: list[np.ndarray]) -> None:
    async with connected(teacher.url) as client:
        for prompt, logprobs in zip(PROMPTS, expected, strict=True):
            token = await client.next_token(prompt, -1)
            assert token.num_top == 264
            assert sorted(token.ids) == list(range(264))
            assert token.ids.dtype == np.int64
            np.testing.assert_allclose(token.logprobs, logprobs[token.ids], atol=1e-4)
            assert (np.diff(token.logprobs) <= 0).all()


async def test_top_k_and_named_ids_come_in_this_order(teacher: Server, expected: list[np.ndarray]) -> None:
    async with connected(teacher.url) as client:
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
    async with connected(teacher.url) as client:
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


async def test_named_ids_and_top_k_in_flight_together_are_both_right(
    teacher: Server, expected: list[np.ndarray]
) -> None:
    """vLLM 0.32 mixes them up where they share a batch; it pads shorter lists of names with id 0."""
    async with connected(teacher.url) as client:
        before = client.num_retries
        named = [[0], [0, 7, 9], list(range(40)), [5, 0]]
        work = [client.next_token(PROMPTS[2], 0, ids) for ids in named * 12]
        work += [client.next_token(PROMPTS[2], 5) for _ in range(48)]
        tokens = await asyncio.gather(*(work[index] for index in np.random.default_rng(0).permutation(len(work))))
        assert client.num_retries == before
    for token in tokens:
        np.testing.assert_allclose(token.logprobs, expected[2][token.ids], atol=1e-4)
        assert token.num_top == 5 or 0 in token.ids


async def test_eos_does_not_end_a_prompt(teacher: Server, expected: list[np.ndarray]) -> None:
    async with connected(teacher.url) as client:
        token = await client.next_token(PROMPTS[0], 3, [256])
        assert abs(token.logprobs[list(token.ids).index(256)] - expected[0][256]) < 1e-4
        after = await client.next_token([*PROMPTS[0], 256, 256], 3)
        assert np.isfinite(after.logprobs).all()


async def test_tokenize_adds_no_special_tokens(teacher: Server) -> None:
    from transformers import AutoTokenizer

    text = 'héllo\n<|endoftext|> "\\ 漢'
    wanted = AutoTokenizer.from_pretrained(teacher.folder)(text, add_special_tokens=False)["input_ids"]
    async with connected(teacher.url) as client:
        assert await client.tokenize(text) == wanted


async def test_the_longest_prompt_is_taken_and_vllms_refusals_are_recognised(teacher: Server) -> None:
    async with connected(teacher.url) as client:
        assert (await client.next_token([1] * 511, 5)).num_top == 5
        object.__setattr__(client.info, "max_model_len", 1024)  # as if the server had been restarted with less
        with pytest.raises(PromptTooLongError, match="maximum context length is 512 tokens"):
            await client.next_token([1] * 600, 5)
        with pytest.raises(ServerRefusedError, match=r"HTTP 400: Token id 999 is out of vocabulary") as caught:
            await client.next_token([999], 5)
        assert "\n" not in str(caught.value)
        assert client.num_retries == 0


async def test_cancelled_requests_end_on_the_server(teacher: Server) -> None:
    """vLLM aborts requests whose connection is closed: far fewer finish than were sent, none continues."""
    finished = 'vllm:request_success_total{engine="0",finished_reason="length"'

    async def metric(name: str) -> float:
        return await asyncio.to_thread(teacher.metric, name)  # the event loop continues with the requests

    async def busy() -> float:
        return await metric("vllm:num_requests_running") + await metric("vllm:num_requests_waiting{")

    async with connected(teacher.url, config=FAST.model_copy(update={"max_in_flight": 256})) as client:
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
                await client.next_token([1], 3)  # the engine updates its metrics when it steps
        assert await metric(finished) - before < 100
        # closed connections are replaced
        tokens = await asyncio.gather(*(client.next_token([i], 3) for i in range(100)))
        assert [token.num_top for token in tokens] == [3] * 100
        assert all(replica.in_flight == 0 for replica in client._replicas.all)
