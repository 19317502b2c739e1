"""ModelClient on a fake server: the requests it sends, what it refuses."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from sampling.errors import ConfigurationError, EmptyPromptError, PromptTooLongError, ServerRefusedError
from sampling.served.client import ModelClient
from sampling.served.server_info import NUM_NAMED_IDS, ServerInfo
from tests.sampling.served.conftest import FAKE, FAST, connected
from tests.sampling.served.fake import FakeServer
from tests.sampling.served.proxy import Proxy, body, status


async def test_the_servers_info_is_discovered(proxy: Proxy) -> None:
    async with connected(proxy.url + "/v1/") as client:
        assert client.info == ServerInfo("teacher", 512, 264, 264, True, "any")
        assert client.info.version == "0.32.0"


async def test_named_ids_follow_the_top_k_in_as_many_requests_as_they_need(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        before = proxy.posts()
        token = await client.next_token([5, 6], 5, range(264))
        assert proxy.posts() - before == 1 + -(-259 // NUM_NAMED_IDS)
    top = FAKE.top([5, 6], 5)
    assert token.num_top == 5
    assert token.ids.tolist() == [*top, *(token_id for token_id in range(264) if token_id not in top)]
    np.testing.assert_allclose(token.logprobs, FAKE.logprobs([5, 6])[token.ids])


async def test_an_id_0_at_minus_infinity_is_dropped(proxy: Proxy) -> None:
    """Another request of the batch may have hidden it."""

    def hide(raw: bytes) -> bytes:
        reply = json.loads(raw)
        reply["choices"][0]["logprobs"]["top_logprobs"][0]["token_id:0"] = -9999.0
        return json.dumps(reply).encode()

    async with connected(proxy.url) as client:
        proxy.faults.append(body(hide))
        token = await client.next_token([1], 0, [3, 0, 4])
    assert token.ids.tolist() == [3, 4]
    np.testing.assert_allclose(token.logprobs, FAKE.logprobs([1])[[3, 4]])


async def test_no_request_has_a_seed_or_leaves_a_sampling_parameter_to_the_server(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        await client.next_token([1, 2], 4, [FAKE.top([1, 2], 6)[-1]])
    requests = [json.loads(request["body"]) for request in proxy.requests if request["path"] == "/v1/completions"]
    assert len(requests) == 4
    for request in requests:
        assert "seed" not in request
        wanted = {"max_tokens": 1, "temperature": 0, "top_p": 1, "top_k": 0, "ignore_eos": True}
        assert request.items() >= wanted.items()


async def test_prompts_that_no_server_takes_are_refused_without_a_request(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        posts = proxy.posts()
        with pytest.raises(EmptyPromptError):
            await client.next_token([], 5)
        with pytest.raises(PromptTooLongError, match=r"prompt of 512 tokens.*max_model_len of 512"):
            await client.next_token([1] * 512, 5)
        assert proxy.posts() == posts


async def test_a_refusal_is_sent_once_and_cut_to_one_line(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        posts = proxy.posts()
        proxy.faults.append(status(422, b"<html>\n" + b"\x1b[31mno\x00 " * 1000))
        with pytest.raises(ServerRefusedError, match=r"HTTP 422: <html> \[31mno .* …$") as caught:
            await client.next_token([1], 5)
        assert proxy.posts() == posts + 1
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


async def test_too_few_logprobs_are_refused_with_the_option(proxy: Proxy) -> None:
    message = "Requested sample logprobs of 264, which is greater than max allowed: 20 (parameter=logprobs)"
    proxy.faults.append(status(400, json.dumps({"error": {"message": message}}).encode()))
    async with connected(proxy.url) as client:
        assert (client.info.vocab_size, client.info.max_logprobs) == (264, 20)
        with pytest.raises(ServerRefusedError, match="gives 20 logprobs, not 264; start it with --max-logprobs 264"):
            await client.next_token([1], -1)
        object.__setattr__(client.info, "can_name_ids", False)
        with pytest.raises(ServerRefusedError, match="logprob_token_ids"):
            await client.next_token([1], 2, [3, 4, 5])


async def test_another_model_is_refused_with_both_names(proxy: Proxy) -> None:
    with pytest.raises(ServerRefusedError, match="serves teacher, not Qwen/Qwen3-14B"):
        await ModelClient("teacher", [proxy.url], FAST, served_name="Qwen/Qwen3-14B").open()
    async with Proxy(FakeServer("theta")) as other:
        with pytest.raises(ServerRefusedError, match=r"disagree: .*(teacher and theta|theta and teacher)") as caught:
            await ModelClient("teacher", [proxy.url, other.url], FAST).open()
    assert proxy.url in str(caught.value)
    assert other.url in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:s3cret@localhost:9000", "user, a password"),
        ("http://localhost:9000/v1?key=s3cret", "query"),
        ("localhost:9000", "give http"),
        ("http://local host:9000\n", "none"),
    ],
)
def test_invalid_urls_are_refused_without_showing_a_secret(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        ModelClient("teacher", [url], FAST)
    assert "s3cret" not in str(caught.value)


def test_no_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no URL"):
        ModelClient("teacher", [], FAST)


async def test_requests_in_flight_are_limited(proxy: Proxy) -> None:
    async with connected(proxy.url, config=FAST.model_copy(update={"max_in_flight": 3})) as client:
        most = 0

        async def row(i: int) -> None:
            nonlocal most
            await client.next_token([i], 2)
            most = max(most, client._replicas.all[0].in_flight + 1)

        await asyncio.gather(*(row(i) for i in range(30)))
        assert most == 3
        assert len(client._transport.connections) <= 4  # that of `open`, then three
