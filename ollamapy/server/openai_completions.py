"""POST /v1/completions: prompts without a conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ollamapy.prompt.parsers import Content
from ollamapy.server.checks import logprob_count
from ollamapy.server.conversation import Asked, Conversation, Question, Reply
from ollamapy.server.decode import read_request
from ollamapy.server.encode import logprob_entry
from ollamapy.server.keys import client_of
from ollamapy.server.models import find_model
from ollamapy.server.openai_chat import DONE, FINGERPRINT, merged, number, stream_failed, usage_value
from ollamapy.server.openai_requests import CompletionRequest, biases, choices, options_of
from ollamapy.server.options import merge_options
from ollamapy.server.service import Service, Timing
from ollamapy.server.sse import Event, stream_sse
from ollamapy.server.streaming import json_response
from ollamapy.types import RequestError, TokenLogprob, Usage

_MOST_PROMPTS = 256
_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

Prompt = str | list[int]


def prompts_of(value: Any) -> list[Prompt]:
    """`prompt`: a text, token ids, or a list of either. Raises RequestError."""
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _are_tokens(value):
            return [value]
        if all(
            isinstance(item, str) or (isinstance(item, list) and item and _are_tokens(item)) for item in value
        ):
            if len(value) > _MOST_PROMPTS:
                raise RequestError(f"a request has at most {_MOST_PROMPTS} prompts")
            return value
    raise RequestError("prompt must be a string, token ids, or a list of either")


def _are_tokens(value: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 31 for item in value)


@dataclass
class _Choice:
    """One continuation as it grows."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    offset: int = 0  # characters before the tokens that are written next

    def add(self, reply: Reply) -> str:
        """Take a reply and return its text."""
        text = "".join(piece.text for piece in reply.pieces if isinstance(piece, Content))
        self.text += text
        self.logprobs += reply.logprobs
        if reply.done_reason is not None:
            self.reason = "stop" if reply.done_reason in ("load", "unload") else reply.done_reason
            self.usage = reply.usage or Usage()
        return text

    @property
    def score(self) -> float:
        """Mean log probability of its tokens: what best_of chooses by."""
        return sum(entry.logprob for entry in self.logprobs) / max(1, len(self.logprobs))


class Completion:
    """A request and how its answers are written."""

    def __init__(self, asked: CompletionRequest, prompts: list[Prompt]) -> None:
        self.asked = asked
        self.prompts = prompts
        self.n = choices(asked.n)
        self.best_of = self.n if asked.best_of is None else choices(asked.best_of, "best_of")
        if self.best_of < self.n:
            raise RequestError("best_of must not be less than n")
        if asked.stream and self.best_of > self.n:
            raise RequestError("best_of is greater than n, which cannot be streamed")
        wanted = asked.logprobs or 0
        self.logprobs = logprob_count(wanted > 0, wanted)
        self.head: dict[str, Any] = {
            "id": f"cmpl-{number()}",
            "object": "text_completion",
            "created": int(time.time()),
        }

    def choice(
        self, index: int, text: str, reason: str | None, logprobs: list[TokenLogprob], offset: int = 0
    ) -> dict[str, Any]:
        """offset: characters of the choice before what the logprobs are of."""
        value: dict[str, Any] = {"text": text, "index": index, "finish_reason": reason}
        if self.logprobs >= 0 and logprobs:
            value["logprobs"] = logprobs_value(logprobs, self.logprobs > 0, offset)
        return value


def logprobs_value(entries: list[TokenLogprob], with_top: bool, offset: int) -> dict[str, Any]:
    """OpenAI's four lists, and beside them the entries as chat has them, which is what Ollama answers."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.text)
    return {
        "content": [logprob_entry(entry, with_top) for entry in entries],
        "tokens": [entry.text for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{top.text: top.logprob for top in entry.top} for entry in entries],
        "text_offset": offsets,
    }


async def completions(request: web.Request, service: Service) -> web.StreamResponse:
    timing = Timing()
    asked = await read_request(request, CompletionRequest)
    native = options_of(asked, asked.max_tokens)
    prompts = prompts_of(asked.prompt)
    model = await find_model(service.store, asked.model)
    completion = Completion(asked, prompts)
    bias = biases(asked.logit_bias)

    def conversation(prompt: Prompt, branch: int) -> Conversation:
        options = merge_options(model.stored.parameters, native)
        options.sampling.logit_bias = bias
        question = Question(suffix=asked.suffix)
        if isinstance(prompt, str):
            question.prompt = prompt
        else:
            question.tokens, question.raw = prompt, True
        scored = 0 if completion.best_of > completion.n else -1
        return Conversation(
            service,
            Asked(
                model=model,
                options=options,
                question=question,
                think=None,
                branch=branch,
                logprobs=max(scored, completion.logprobs),
                client=client_of(request, service.settings.api_keys),
                timing=timing,
            ),
        )

    groups = [[conversation(prompt, branch) for branch in range(completion.best_of)] for prompt in prompts]
    if asked.debug_render_only:
        await groups[0][0].rendered()
        return json_response(_whole(completion, [completion.choice(0, "", None, [])], dict(_NO_USAGE)))
    if asked.stream:
        return await stream_sse(request, _stream(completion, groups), stream_failed)
    return json_response(await _collect(completion, groups))


def _tail(completion: Completion) -> dict[str, Any]:
    return {"model": completion.asked.model, "system_fingerprint": FINGERPRINT}


def _whole(completion: Completion, chosen: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return {**completion.head, **_tail(completion), "choices": chosen, "usage": usage}


async def _replies(conversations: list[Conversation]) -> AsyncGenerator[Reply, None]:
    """The replies to one prompt; a prompt without a text only loads the model."""
    if conversations[0].is_empty:
        await conversations[0].load()
        for index in range(len(conversations)):
            yield Reply(index=index, done_reason="stop", usage=Usage())
        return
    async with aclosing(merged(conversations)) as replies:
        async for reply in replies:
            yield reply


async def _collect(completion: Completion, groups: list[list[Conversation]]) -> dict[str, Any]:
    async def answer(conversations: list[Conversation]) -> list[_Choice]:
        states = [_Choice() for _ in conversations]
        async with aclosing(_replies(conversations)) as replies:
            async for reply in replies:
                states[reply.index].add(reply)
        return states

    answered = await asyncio.gather(*(answer(group) for group in groups))
    chosen: list[dict[str, Any]] = []
    usages: list[dict[str, Any]] = []
    for prompt, group, states in zip(completion.prompts, groups, answered, strict=True):
        usages.append(usage_value([state.usage for state in states]))
        if completion.best_of > completion.n:
            states = sorted(states, key=lambda state: state.score, reverse=True)[: completion.n]
        before = await completion_echo(completion, prompt, group[0])
        for state in states:
            text = before + state.text
            chosen.append(completion.choice(len(chosen), text, state.reason, state.logprobs, len(before)))
    return _whole(completion, chosen, _sum(usages))


async def completion_echo(completion: Completion, prompt: Prompt, conversation: Conversation) -> str:
    """The prompt's text, where the request wants it before the answer."""
    if not completion.asked.echo:
        return ""
    return prompt if isinstance(prompt, str) else await conversation.decoded(prompt)


def _sum(usages: list[dict[str, Any]]) -> dict[str, Any]:
    if len(usages) == 1:
        return usages[0]
    return {name: sum(usage[name] for usage in usages) for name in _NO_USAGE}


async def _stream(completion: Completion, groups: list[list[Conversation]]) -> AsyncGenerator[Event, None]:
    """Chunks, prompt after prompt. With include_usage every chunk has a usage, of zeros before the last."""
    asked = completion.asked
    include = asked.stream_options is not None and asked.stream_options.include_usage
    usages: list[dict[str, Any]] = []

    def chunk(chosen: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> Event:
        data = {**completion.head, "choices": chosen, **_tail(completion)}
        if include:
            data["usage"] = usage or _NO_USAGE
        return Event(data)

    for number_, (prompt, group) in enumerate(zip(completion.prompts, groups, strict=True)):
        first = number_ * completion.n
        states = [_Choice() for _ in group]
        if before := await completion_echo(completion, prompt, group[0]):
            for index in range(len(group)):
                states[index].offset = len(before)
                yield chunk([completion.choice(first + index, before, None, [])])
        async with aclosing(_replies(group)) as replies:
            async for reply in replies:
                index = reply.index
                text = states[index].add(reply)
                if text or reply.logprobs:
                    offset = states[index].offset
                    states[index].offset += sum(len(entry.text) for entry in reply.logprobs)
                    yield chunk([completion.choice(first + index, text, None, reply.logprobs, offset)])
                if reply.done_reason is not None:
                    yield chunk([completion.choice(first + index, "", states[index].reason, [])])
        usages.append(usage_value([state.usage for state in states]))
    if include:
        yield chunk([], _sum(usages))
    yield DONE
