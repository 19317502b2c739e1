"""ModelClient against failing servers: retries, circuit breaker, errors after a bounded time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from sampling.errors import NonFiniteLogitsError, ServerError, ServerRefusedError
from sampling.served.replies import NextToken
from tests.sampling.served.conftest import FAKE, FAST, connected
from tests.sampling.served.fake import FakeServer
from tests.sampling.served.proxy import Fault, Proxy, body, reset, slow, status
from tests.sampling.served.servers import free_port

ROWS = [[i, 250 - i, 3] for i in range(32)]


def assert_right(tokens: Sequence[NextToken]) -> None:
    """These are the five likeliest ids after each of ROWS."""
    for token, row in zip(tokens, ROWS, strict=True):
        assert token.ids.tolist() == FAKE.top(row, 5)
        np.testing.assert_allclose(token.logprobs, FAKE.logprobs(row)[token.ids])


def edited(change: Callable[[dict[str, float]], dict[str, float | None]]) -> Fault:
    """Change the logprobs."""

    def edit(raw: bytes) -> bytes:
        reply = json.loads(raw)
        logprobs = reply["choices"][0]["logprobs"]
        logprobs["top_logprobs"] = [change(logprobs["top_logprobs"][0])]
        return json.dumps(reply).encode()

    return body(edit)


FAULTS: dict[str, Fault] = {
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


@pytest.mark.parametrize("name", FAULTS)
async def test_a_faulty_reply_is_retried(name: str, proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        posts = proxy.posts()
        proxy.faults.extend([FAULTS[name]] * 2)
        token = await client.next_token(ROWS[0], 5)
        assert client.num_retries == 2
        assert proxy.posts() == posts + 3
    assert token.ids.tolist() == FAKE.top(ROWS[0], 5)


async def test_a_server_with_only_malformed_replies_is_an_error_that_names_them(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        proxy.always = FAULTS["another shape"]
        with pytest.raises(ServerError, match=r"do not answer after 5 tries .*without logprobs of one token") as caught:
            await client.next_token(ROWS[0], 5)
        assert proxy.url in str(caught.value)
        assert "start them again" in str(caught.value)


@pytest.mark.parametrize(
    "ids", ["[Infinity]", "[NaN]", "[1.5]", "[true]", '["7"]', "[-1]", "[null]", "5", '"12"', "[[1]]"]
)
async def test_token_ids_that_are_none_are_retried(ids: str, proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        proxy.faults.append(body(lambda raw: b'{"tokens": %s}' % ids.encode()))
        assert await client.tokenize("a") == await client.tokenize("a")
        assert client.num_retries == 1


async def test_a_try_that_takes_too_long_is_cancelled_and_repeated(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        client._transport._config = FAST.model_copy(update={"request_timeout_s": 0.2})
        proxy.faults.append(slow(30))
        started = time.monotonic()
        assert (await client.next_token(ROWS[0], 5)).num_top == 5
        assert 0.2 <= time.monotonic() - started < 10
        assert client.num_retries >= 1


async def test_retry_after_is_honoured_by_all_rows(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        proxy.faults.append(status(429, retry_after="0.4"))
        started = time.monotonic()
        first = asyncio.create_task(client.next_token(ROWS[0], 5))
        while not client._replicas.all[0].is_out:
            await asyncio.sleep(0.005)
        posts = proxy.posts()
        others = [asyncio.create_task(client.next_token(row, 5)) for row in ROWS[1:]]
        await asyncio.sleep(0.2)
        assert proxy.posts() == posts
        assert_right([await first, *(await asyncio.gather(*others))])
        assert 0.4 <= time.monotonic() - started < 10
        assert client.num_retries == 1


async def test_nan_is_passed_on_and_vllms_error_for_it_is_an_error_of_the_row(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
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
        # the reply of vLLM 0.32 to a prompt with an id whose embedding is NaN
        error = {"message": "Out of range float values are not JSON compliant", "type": "BadRequestError", "code": 400}
        proxy.faults.append(status(400, json.dumps({"error": error}).encode()))
        with pytest.raises(NonFiniteLogitsError):
            await client.next_token(ROWS[0], 5)
        assert client.num_retries == 0


async def test_a_refused_key_names_the_variable_and_is_never_shown(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = "sk-very-secret"
    async with connected(proxy.url, api_key=key) as client:
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
        with pytest.raises(ServerError) as no_answer:
            await client.next_token([1], 2)
        texts.append(f"{no_answer.value!r} {no_answer.value.__cause__!r}")
    assert key not in " ".join([*texts, caplog.text])
    proxy.always = None
    proxy.get_faults["/v1/models"] = status(401)
    with pytest.raises(ServerRefusedError, match=r"wants an API key .*DUAL_SAMPLING_THETA_API_KEY"):
        async with connected(proxy.url, name="theta"):
            pass


async def test_a_killed_replica_is_replaced_and_comes_back(proxy: Proxy) -> None:
    """32 rows in flight over two replicas; one is killed, then restarted: every row ends once, right."""
    async with Proxy(FAKE) as second, connected(proxy.url, second.url) as client:
        assert [replica.is_out for replica in client._replicas.all] == [False, False]
        ends: list[int] = []

        async def row(i: int) -> NextToken:
            token = await client.next_token(ROWS[i], 5, row=i)
            ends.append(i)
            return token

        second.always = slow(0.1)  # in flight when it is killed
        rows = [asyncio.create_task(row(i)) for i in range(32)]
        while client._replicas.all[1].in_flight < 10:
            await asyncio.sleep(0.001)
        await second.stop()
        assert_right(await asyncio.gather(*rows))
        assert sorted(ends) == list(range(32))
        assert client.num_retries >= 10
        for i in range(4):  # its own rows, one by one: failures in flight together count once
            await client.next_token(ROWS[i], 5, row=1)
        assert client._replicas.all[1].is_out
        posts = second.posts()
        assert_right(await asyncio.gather(*(row(i) for i in range(32))))
        second.always = None
        await second.start()
        async with asyncio.timeout(5):
            while client._replicas.all[1].is_out:
                await asyncio.sleep(0.02)
        assert_right(await asyncio.gather(*(row(i) for i in range(32))))
        assert second.posts() - posts > 10  # it has its share of the rows again


async def test_an_only_server_that_is_restarted_loses_no_row(proxy: Proxy) -> None:
    async with connected(proxy.url) as client:
        proxy.always = slow(0.1)
        rows = [asyncio.create_task(client.next_token(row, 5)) for row in ROWS]
        while client._replicas.all[0].in_flight < 32:
            await asyncio.sleep(0.001)
        await proxy.stop()
        await asyncio.sleep(0.3)
        assert client._replicas.all[0].is_out  # the breaker is open: no requests are sent
        proxy.always = None
        await proxy.start()
        assert_right(await asyncio.gather(*rows))


async def test_when_all_replicas_are_down_the_error_names_each_within_a_bounded_time(proxy: Proxy) -> None:
    async with Proxy(FAKE) as second, connected(proxy.url, second.url) as client:
        await proxy.stop()
        await second.stop()
        started = time.monotonic()
        ended = await asyncio.gather(*(client.next_token(row, 5) for row in ROWS), return_exceptions=True)
        # 4 retries, each after at most a pause of 0.2 s with a check, then a back-off of at most 0.16 s
        assert time.monotonic() - started < 4
        assert {type(end) for end in ended} == {ServerError}
        for url in (proxy.url, second.url):
            assert f"{url}: ConnectError" in str(ended[0])


async def test_a_missing_server_is_an_error_and_one_of_two_is_left_out(proxy: Proxy) -> None:
    missing = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match=f"{missing}: ConnectError"):
        async with connected(missing):
            pass
    async with connected(missing, proxy.url) as client:
        retries = client.num_retries
        assert [replica.is_out for replica in client._replicas.all] == [True, False]
        assert (await client.next_token([1], 3, row=0)).num_top == 3
        assert client.num_retries == retries


async def test_a_replica_that_comes_back_with_another_model_stops_the_run(proxy: Proxy) -> None:
    async with Proxy(FAKE) as second, connected(proxy.url, second.url) as client:
        second.always = status(500)
        await asyncio.gather(*(client.next_token([i], 3, row=1) for i in range(2)))
        for _ in range(6):
            await client.next_token([1], 3, row=1)
        assert client._replicas.all[1].is_out
        second.always, second.upstream = None, FakeServer("theta")

        async def repeat() -> None:
            while True:
                await client.next_token([1], 3)
                await asyncio.sleep(0.02)

        with pytest.raises(ServerRefusedError, match="disagree: model teacher and theta"):
            await asyncio.wait_for(repeat(), 5)


async def test_requests_go_to_the_least_busy_replica(proxy: Proxy) -> None:
    async with Proxy(FAKE) as second, connected(proxy.url, second.url) as client:
        proxy.always = slow(0.2)
        before = proxy.posts(), second.posts()
        hard = [asyncio.create_task(client.next_token(row, 5)) for row in ROWS[:2]]
        await asyncio.sleep(0.05)  # one slow request on the first, one done on the second
        for row in ROWS[:10]:
            await client.next_token(row, 5)
        await asyncio.gather(*hard)
        assert proxy.posts() - before[0] < second.posts() - before[1]
