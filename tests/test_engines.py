"""The server sampler against a server that fails. Only the faults are made up; tests/real_vllm has the engine."""

import json
import math
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from trl import ModelConfig

from mrt_plugin.engines.load import load_sampler
from mrt_plugin.engines.sampling import Completion, Prompt, SamplingError, SamplingSettings
from mrt_plugin.engines.server import ServerSampler
from mrt_plugin.jobs.arguments import JobArguments


SETTINGS = SamplingSettings(max_new_tokens=8, temperature=0.7, seed=3)


class FaultyServer(ThreadingHTTPServer):
    """Answers a prompt with tokens that are a function of it, or with a fault."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fault=lambda index: None, token_ids=True, finish_reason="stop"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.token_ids, self.finish_reason = fault, token_ids, finish_reason
        self.most = math.inf  # completions for a request
        self.requests, self.at_once, self.most_at_once = [], 0, 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body: dict, status=200, sent=1.0):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: int(len(content) * sent)])
        self.close_connection = True

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "max_model_len": 99}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            index = len(server.requests)
            server.requests.append(request)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self.respond(request, server.fault(index))
        finally:
            with server.lock:
                server.at_once -= 1

    def respond(self, request, fault):
        n = min(request["n"] - (fault == "one too few" and request["n"] > 1), self.server.most)
        choices = [
            {"index": i, "text": "5", "finish_reason": self.server.finish_reason, "logprobs": None}
            | ({"token_ids": [*request["prompt"], (request.get("seed") or 0) + i]} if self.server.token_ids else {})
            for i in range(n)
        ]
        body = {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": choices}
        if fault == "drop":
            self.close_connection = True
        elif fault == "delay":
            time.sleep(1.0)
        elif fault == "truncate":
            self.answer(body, sent=0.5)
        elif fault == "garble":
            self.answer("<html>")
        elif isinstance(fault, int):
            self.answer({"error": {"message": "it went wrong", "type": "x", "code": fault}}, status=fault)
        else:
            time.sleep(0.01)
            self.answer(body)


@pytest.fixture
def serve():
    servers = []

    def start(*arguments, **kwargs):
        servers.append(FaultyServer(*arguments, **kwargs))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


def sampler(server, tokenizer, **settings):
    return ServerSampler("m", tokenizer, server.url, **{"concurrency": 64, "timeout": 0.5} | settings)


PROMPTS = [Prompt([10 + i, 5], suffix=[7]) for i in range(60)]
RIGHT = [[Completion([10 + i, 5, 7, 3 + 2 * i + j], ended=True) for j in range(2)] for i in range(60)]  # by the seed


def test_a_prompt_goes_out_in_tokens_and_comes_back_in_tokens(serve, tokenizer):
    server = serve()
    engine = sampler(server, tokenizer)
    assert engine.max_length == 99
    assert engine.sample(PROMPTS, 2, SETTINGS) == RIGHT
    [request] = [request for request in server.requests if request["prompt"][0] == 13]
    expected = {
        "prompt": [13, 5, 7],
        "n": 2,
        "max_tokens": 8,
        "temperature": 0.7,
        "top_p": 1.0,
        "seed": 9,
        "model": "m",
    }
    model_defaults = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
    assert request == expected | model_defaults


def test_greedy_asks_once(serve, tokenizer):
    server = serve()
    drawn = sampler(server, tokenizer).sample(PROMPTS[:1], 3, SamplingSettings(8, temperature=0))
    assert (drawn, server.requests[0]["n"]) == ([[Completion([10, 5, 7, 0], ended=True)] * 3], 1)


def test_a_server_without_token_ids_returns_text(serve, tokenizer):
    [[first]] = sampler(serve(token_ids=False), tokenizer).sample(PROMPTS[:1], 1, SETTINGS)
    assert first == Completion([*tokenizer("5")["input_ids"], tokenizer.eos_token_id], ended=True)
    server = serve(token_ids=False, finish_reason="length")  # fewer tokens here than the server counted
    [[first]] = sampler(server, tokenizer).sample(PROMPTS[:1], 1, SETTINGS)
    assert first == Completion(tokenizer("5")["input_ids"], ended=False)


def test_a_prompt_fits_if_there_is_room_for_what_is_to_be_written():
    prompt = Prompt([5, 6, 7], cut=2, suffix=[1])
    assert [prompt.fits(context) for context in (None, 4, 3)] == [True, True, False]
    assert [prompt.fits(context, 2) for context in (None, 5, 4)] == [True, True, False]


def test_a_prompt_without_room_is_not_asked(serve, tokenizer):
    server = serve()
    first, second = sampler(server, tokenizer).sample([Prompt([9] * 99), PROMPTS[1]], 2, SETTINGS)
    assert (first, second, len(server.requests)) == (None, RIGHT[1], 1)


def test_no_more_requests_at_once_than_allowed(serve, tokenizer):
    server = serve()
    sampler(server, tokenizer, concurrency=4).sample(PROMPTS, 2, SETTINGS)
    assert 2 <= server.most_at_once <= 4


FAULTS = ["drop", "delay", "truncate", "garble", "one too few", 500, 503, 429]


@pytest.mark.parametrize("fault", [*FAULTS, "any"])
def test_three_in_ten_requests_fail_and_every_row_is_right(serve, tokenizer, fault, monkeypatch):
    monkeypatch.setattr("mrt_plugin.engines.server.RETRIES", 12)
    dice = random.Random(0)
    faults = [(dice.choice(FAULTS) if fault == "any" else fault) if dice.random() < 0.3 else None for _ in range(2000)]
    server = serve(faults.__getitem__)
    assert sampler(server, tokenizer).sample(PROMPTS, 2, SETTINGS) == RIGHT
    assert len(server.requests) > 60


@pytest.mark.parametrize("fault", ["drop", "truncate", "garble", 500])
def test_what_stays_unanswered_is_named(serve, tokenizer, fault, monkeypatch):
    monkeypatch.setattr("mrt_plugin.engines.server.RETRIES", 2)
    server = serve()

    def only_one(index):
        return fault if server.requests[index]["prompt"][0] == 12 else None

    server.fault = only_one
    with pytest.raises(SamplingError, match="1 prompts have no completions, the first because: .") as raised:
        sampler(server, tokenizer).sample(PROMPTS, 2, SETTINGS)
    assert list(raised.value.failed) == [2]


def test_a_refusal_is_not_tried_again_and_says_why(serve, tokenizer):
    server = serve(lambda index: 400)
    with pytest.raises(SamplingError, match="it went wrong"):
        sampler(server, tokenizer).sample(PROMPTS, 2, SETTINGS)
    assert max(Counter(request["prompt"][0] for request in server.requests).values()) == 1


def test_nobody_at_the_address(tokenizer):
    with pytest.raises(ValueError, match="server_url: no list of models from http://127.0.0.1:9/v1: .*[Cc]onnect"):
        ServerSampler("m", tokenizer, "http://127.0.0.1:9/v1", 1, 0.5)


def test_another_model(serve, tokenizer):
    with pytest.raises(ValueError, match=r"has the models \['m'\], not 'other'"):
        ServerSampler("other", tokenizer, serve().url, 1, 0.5)


def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setattr("mrt_plugin.engines.load.find_spec", lambda name: None)
    model_args = SimpleNamespace(model_name_or_path="m", model_revision="main", dtype=None, torch_dtype=None)
    for kind in ("vllm", "server"):
        with pytest.raises(ImportError, match=rf"pip install 'mrt-plugin\[{kind}\]'"):
            load_sampler(JobArguments(sampler=kind), model_args, None)


def test_what_a_recipe_says_of_an_engine_reaches_it(serve, tokenizer, model_path, monkeypatch):
    monkeypatch.setattr("mrt_plugin.engines.load.find_spec", lambda name: True)
    model_args = ModelConfig(model_path)
    args = JobArguments(sampler="transformers", max_batch_tokens=123)
    assert load_sampler(args, model_args, tokenizer).max_batch_tokens == 123
    seen = {}
    monkeypatch.setattr("mrt_plugin.engines.load.VLLMSampler", lambda *given, **settings: seen.update(settings))
    engine_args = '{"tensor_parallel_size": 4, "dtype": "float16"}'  # as the command line has it
    load_sampler(JobArguments(sampler="vllm", vllm_args=engine_args), model_args, tokenizer)
    assert seen == {"revision": "main", "dtype": "float16", "tensor_parallel_size": 4}
    args = JobArguments(sampler="server", server_url=serve().url, server_concurrency=3, server_timeout=7.0)
    engine = load_sampler(args, ModelConfig("m"), tokenizer)
    assert (engine.concurrency, engine.connection["timeout"]) == (3, 7.0)


@pytest.mark.parametrize("vllm_args", ["{", "[1]", [1]])
def test_engine_arguments_that_are_none(vllm_args):
    with pytest.raises(ValueError, match="vllm_args must map names of arguments to values"):
        JobArguments(vllm_args=vllm_args)
