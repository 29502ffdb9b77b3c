"""A server that gives fewer completions than it is asked for cost nine full requests and an error about garbled
answers."""

import pytest
from test_engines import PROMPTS, SETTINGS, sampler, serve, short_backoff  # noqa: F401

from mrt_plugin.engines.sampling import Completion


def expected(n):
    """What the server gives by the seeds that belong to each prompt."""
    return [
        [Completion([*prompt.token_ids, 3 + n * index + j], ended=True) for j in range(n)]
        for index, prompt in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize(("most", "n", "requests"), [(1, 4, 4), (3, 4, 2), (3, 8, 3), (4, 4, 1)])
def test_the_rest_is_asked_for(serve, tokenizer, caplog, most, n, requests):  # noqa: F811
    server = serve()
    server.most = most
    engine = sampler(server, tokenizer)
    assert engine.sample(PROMPTS, n, SETTINGS) == expected(n)
    assert len(server.requests) == requests * len(PROMPTS)
    assert caplog.text.count(f"gives {most} of {n} completions (n)") == (most < n)
    server.requests.clear()
    assert engine.sample(PROMPTS, n, SETTINGS) == expected(n)
    assert max(request["n"] for request in server.requests) == min(most, n)  # what it is known to give
