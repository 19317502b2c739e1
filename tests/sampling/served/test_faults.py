"""Servers that fail: every request ends once, right, or with a clear error within a bounded time."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Callable

import numpy as np
import pytest

from sampling.errors import NonFiniteLogitsError, ServerError, ServerRefusedError
from sampling.served.client import ModelClient
from sampling.served.replies import NextToken
from tests.sampling.served.conftest import FAST
from tests.sampling.served.proxy import Fault, Proxy, body, reset, slow, status
from tests.sampling.served.servers import Server, free_port

ROWS = [[i, 250 - i, 3] for i in range(32)]


async def truth(teacher: Server) -> list[NextToken]:
    """What the undisturbed server says after each of ROWS."""
    async with ModelClient("teacher", [teacher.url], FAST) as client:
        return list(await asyncio.gather(*(client.next_token(row, 5) for row in ROWS)))


def same(tokens: list[NextToken], wanted: list[NextToken]) -> None:
    assert len(tokens) == len(wanted)
    for token, want in zip(tokens, wanted, strict=True):
        assert token.ids.tolist() == want.ids.tolist()
        np.testing.assert_allclose(token.logprobs, want.logprobs, atol=1e-4)  # batches differ in the last bits


def edited(change: Callable[[dict[str, float]], dict[str, float | None]]) -> Fault:
    """The real reply with other logprobs."""

    def edit(raw: bytes) -> bytes:
        reply = json.loads(raw)
        logprobs = reply["choices"][0]["logprobs"]
        logprobs["top_logprobs"] = [change(logprobs["top_logprobs"][0])]
        return json.dumps(reply).encode()

    return body(edit)


SPOILT: dict[str, Fault] = {
    "reset before the first byte": reset(-1),
    "reset in mid-body": reset(100),
    "status 500": status(500),
    "status 503 with a page": status(503, b"<html>Service Unavailable</html>"),
    "status 408": status(408),
    "429 without Retry-After": status(429),
    "half of the JSON": body(lambda raw: raw[: len(raw) // 2]),
    "no JSON": body(lambda raw: b"\xff\xfe nonsense"),
    "deep JSON": body(lambda raw: b"[" * 100_000),
    "another shape": body(lambda raw: b'{"choices": []}'),
    "a list": body(lambda raw: b"[1, 2]"),
    "null": body(lambda raw: b"null"),
    "no logprobs": edited(lambda top: {}),
    "too few": edited(lambda top: dict(list(top.items())[:2])),
    "texts for ids": edited(lambda top: {"a": -1.0, "b": -2.0}),
    "an id the model lacks": edited(lambda top: {**top, "token_id:99999": -3.0}),
    "a negative id": edited(lambda top: {**top, "token_id:-1": -3.0}),
    "texts for numbers": edited(lambda top: dict.fromkeys(top, "x")),  # type: ignore[arg-type]
    "logits": edited(lambda top: {key: 3.0 - i for i, key in enumerate(top)}),
    "too much mass": edited(lambda top: dict.fromkeys(top, -0.1)),
    "another row's reply": body(lambda raw: raw.replace(b'"prompt_tokens":3', b'"prompt_tokens":4')),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_a_spoilt_reply_is_asked_for_again(name: str, proxy: Proxy, teacher: Server) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        posts = proxy.posts()
        proxy.faults.extend([SPOILT[name]] * 2)
        token = await client.next_token(ROWS[0], 5)
        assert client.num_retries == 2
        assert proxy.posts() == posts + 3
    same([token], (await truth(teacher))[:1])


async def test_a_server_that_always_answers_nonsense_is_an_error_that_says_so(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        proxy.always = SPOILT["another shape"]
        with pytest.raises(ServerError, match=r"do not answer after 5 tries .*without logprobs of one token") as caught:
            await client.next_token(ROWS[0], 5)
        assert proxy.url in str(caught.value)
        assert "start them again" in str(caught.value)


async def test_a_try_that_takes_too_long_is_given_up_and_repeated(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        client._wire._config = FAST.model_copy(update={"request_timeout_s": 0.5})
        proxy.faults.append(slow(30))
        started = time.monotonic()
        assert (await client.next_token(ROWS[0], 5)).num_top == 5
        assert 0.5 <= time.monotonic() - started < 10
        assert client.num_retries >= 1


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(form: str, proxy: Proxy, teacher: Server) -> None:
    """By all rows: a server that asks for a rest gets no request at all for as long."""
    wanted = await truth(teacher)
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        after = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        proxy.faults.append(status(429, retry_after=after))
        started = time.monotonic()
        first = asyncio.create_task(client.next_token(ROWS[0], 5))
        while client._replicas.all[0].absence is None:
            await asyncio.sleep(0.005)
        posts = proxy.posts()
        others = [asyncio.create_task(client.next_token(row, 5)) for row in ROWS[1:]]
        await asyncio.sleep(0.5)
        assert proxy.posts() == posts
        same([await first, *(await asyncio.gather(*others))], wanted)
        assert 0.9 <= time.monotonic() - started < 10
        assert client.num_retries == 1


async def test_nan_is_passed_on_and_what_vllm_says_of_it_is_the_rows_matter(proxy: Proxy) -> None:
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        proxy.faults.append(
            edited(lambda top: {key: value if i else None for i, (key, value) in enumerate(top.items())})
        )
        token = await client.next_token(ROWS[0], 5)
        assert np.isnan(token.logprobs).sum() == 1
        assert len(set(token.ids.tolist())) == 5
        proxy.faults.append(edited(lambda top: dict.fromkeys(top, float("nan"))))
        assert np.isnan((await client.next_token(ROWS[0], 5)).logprobs).all()
        proxy.faults.append(edited(lambda top: {key: -9999.0 if i else 0.0 for i, key in enumerate(top)}))
        assert (await client.next_token(ROWS[0], 5)).logprobs.tolist() == [0.0] + [-np.inf] * 4
        # the answer of vLLM 0.32 to a prompt with an id whose embedding is NaN
        said = {"message": "Out of range float values are not JSON compliant", "type": "BadRequestError", "code": 400}
        proxy.faults.append(status(400, json.dumps({"error": said}).encode()))
        with pytest.raises(NonFiniteLogitsError):
            await client.next_token(ROWS[0], 5)
        assert client.num_retries == 0


async def test_a_refused_key_names_the_variable_and_never_shows(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    key = "sk-very-secret"
    async with ModelClient("teacher", [proxy.url], FAST, api_key=key) as client:
        assert {request["headers"]["authorization"] for request in proxy.requests} == {f"Bearer {key}"}
        texts = [repr(client), repr(client._replicas.all), repr(client.info)]
        for fault in (status(401, f"wrong key {key}".encode()), status(418, f"wrong key {key}".encode())):
            proxy.faults.append(fault)
            with pytest.raises(ServerRefusedError) as caught:
                await client.next_token([1], 2)
            texts.append(f"{caught.value!r} {caught.value}")
        assert "set DUAL_SAMPLING_TEACHER_API_KEY to one it takes" in texts[3]
        assert "wrong key <the API key>" in texts[4]
        proxy.always = status(500, f"wrong key {key}".encode())
        with pytest.raises(ServerError) as gone:
            await client.next_token([1], 2)
        texts.append(f"{gone.value!r} {gone.value.__cause__!r}")
    assert key not in " ".join([*texts, caplog.text])
    proxy.always = None
    proxy.spoil_get["/v1/models"] = status(401)
    with pytest.raises(ServerRefusedError, match=r"wants an API key .*DUAL_SAMPLING_THETA_API_KEY"):
        await ModelClient("theta", [proxy.url], FAST).__aenter__()


async def test_a_killed_replica_is_replaced_and_comes_back(proxy: Proxy, teacher: Server) -> None:
    """32 rows in flight over two replicas; one is killed, then restarted: every row ends once, right."""
    wanted = await truth(teacher)
    async with Proxy(teacher.url) as second, ModelClient("teacher", [proxy.url, second.url], FAST) as client:
        assert [replica.is_out for replica in client._replicas.all] == [False, False]
        ends: list[int] = []

        async def row(i: int) -> NextToken:
            token = await client.next_token(ROWS[i], 5, row=i)
            ends.append(i)
            return token

        second.always = slow(0.1)  # in flight when it dies
        rows = [asyncio.create_task(row(i)) for i in range(32)]
        while client._replicas.all[1].in_flight < 10:
            await asyncio.sleep(0.001)
        await second.stop()
        same(list(await asyncio.gather(*rows)), wanted)
        assert sorted(ends) == list(range(32))
        assert client.num_retries >= 10
        for i in range(4):  # rows of its own, one by one: those in flight together count once
            await client.next_token(ROWS[i], 5, row=1)
        assert client._replicas.all[1].is_out
        posts = second.posts()
        same(list(await asyncio.gather(*(row(i) for i in range(32)))), wanted)
        second.always = None
        await second.start()
        async with asyncio.timeout(5):
            while client._replicas.all[1].is_out:
                await asyncio.sleep(0.02)
        same(list(await asyncio.gather(*(row(i) for i in range(32)))), wanted)
        assert second.posts() - posts > 10  # its share again


async def test_an_only_server_that_is_restarted_loses_no_row(proxy: Proxy, teacher: Server) -> None:
    wanted = await truth(teacher)
    async with ModelClient("teacher", [proxy.url], FAST) as client:
        proxy.always = slow(0.1)
        rows = [asyncio.create_task(client.next_token(row, 5)) for row in ROWS]
        while client._replicas.all[0].in_flight < 32:
            await asyncio.sleep(0.001)
        await proxy.stop()
        await asyncio.sleep(0.3)
        assert client._replicas.all[0].is_out  # the breaker opened: nobody knocks
        proxy.always = None
        await proxy.start()
        same(list(await asyncio.gather(*rows)), wanted)


async def test_when_all_replicas_are_gone_the_error_names_each_within_a_bounded_time(
    proxy: Proxy, teacher: Server
) -> None:
    async with Proxy(teacher.url) as second, ModelClient("teacher", [proxy.url, second.url], FAST) as client:
        await proxy.stop()
        await second.stop()
        started = time.monotonic()
        ended = await asyncio.gather(*(client.next_token(row, 5) for row in ROWS), return_exceptions=True)
        # 4 retries, each after at most a pause of 0.2 s with a check, then a back-off of at most 0.16 s
        assert time.monotonic() - started < 4
        assert {type(end) for end in ended} == {ServerError}
        for url in (proxy.url, second.url):
            assert f"{url}: ConnectError" in str(ended[0])


async def test_a_server_that_never_was_there_is_an_error_and_one_of_two_is_left_out(teacher: Server) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match=f"{nobody}: ConnectError"):
        await ModelClient("teacher", [nobody], FAST).__aenter__()
    async with ModelClient("teacher", [nobody, teacher.url], FAST) as client:
        retries = client.num_retries
        assert [replica.is_out for replica in client._replicas.all] == [True, False]
        assert (await client.next_token([1], 3, row=0)).num_top == 3
        assert client.num_retries == retries


async def test_a_replica_that_comes_back_with_another_model_stops_the_run(
    proxy: Proxy, teacher: Server, theta: Server
) -> None:
    async with Proxy(teacher.url) as second, ModelClient("teacher", [proxy.url, second.url], FAST) as client:
        second.always = status(500)
        await asyncio.gather(*(client.next_token([i], 3, row=1) for i in range(2)))
        for _ in range(6):
            await client.next_token([1], 3, row=1)
        assert client._replicas.all[1].is_out
        second.always, second.upstream = None, theta.url

        async def ask_on() -> None:
            while True:
                await client.next_token([1], 3)
                await asyncio.sleep(0.02)

        with pytest.raises(ServerRefusedError, match="disagree: model teacher and theta"):
            await asyncio.wait_for(ask_on(), 5)


async def test_the_least_busy_replica_is_asked(proxy: Proxy, teacher: Server) -> None:
    async with Proxy(teacher.url) as second, ModelClient("teacher", [proxy.url, second.url], FAST) as client:
        proxy.always = slow(0.2)
        before = proxy.posts(), second.posts()
        hard = [asyncio.create_task(client.next_token(row, 5)) for row in ROWS[:2]]
        await asyncio.sleep(0.05)  # one slow request on the first, one done on the second
        for row in ROWS[:10]:
            await client.next_token(row, 5)
        await asyncio.gather(*hard)
        assert proxy.posts() - before[0] < second.posts() - before[1]
