"""A question and its answer, for every dialect: what Ollama checks, how the prompt is written, and how the text
that comes back is read.

A dialect fills an `Asked`, makes a `Conversation` of it (which raises what is wrong with it) and encodes the
replies. `/api/generate` and `/v1/completions` ask with a `Question`, everything else with messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ollamapy.prompt.parsers import Content, Parser, Piece, Setup, ToolCall
from ollamapy.prompt.parsers.forced import forced_parser
from ollamapy.prompt.parsers.generic import GenericParser
from ollamapy.prompt.template_tags import Tags
from ollamapy.server.checks import (
    check_capability,
    check_completion,
    check_think,
    check_vision,
)
from ollamapy.server.errors import ServerError
from ollamapy.server.models import ServedModel
from ollamapy.server.options import Options
from ollamapy.server.requests import Message
from ollamapy.server.service import Fitted, Limits, Service, Timing, fit_messages, tokenize
from ollamapy.server.tool_schemas import check_tools
from ollamapy.server.trace import note_end
from ollamapy.types import Constraint, Delta, DoneReason, RequestError, TokenLogprob, Usage

if TYPE_CHECKING:
    from ollamapy.engine.protocol import LoadedModel

Turn = dict[str, Any]
"""A message as templates and renderers see it: role, content, thinking, images, tool_calls, tool_name,
tool_call_id."""


@dataclass(slots=True, kw_only=True)
class Question:
    """A prompt without a conversation."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] | None = None  # of an earlier answer; it stands for the model's history, also if empty
    raw: bool = False
    tokens: list[int] = field(default_factory=list)  # of a raw prompt, instead of its text
    images: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Asked:
    """What a request asks, whatever its dialect. Values that Conversation checks are as the client sent them."""

    model: ServedModel
    options: Options
    messages: list[Message] = field(default_factory=list)
    question: Question | None = None  # instead of messages
    tools: list[dict[str, Any]] = field(default_factory=list)
    empty_tools: bool = False  # an empty list of tools was sent, which a template can tell from none
    think: Any = None  # bool, "low", "medium", "high", "max"; None: not said
    relax_thinking: bool = False  # a model that cannot think answers without, instead of refusing
    grammar: str | None = None  # what the answer, after a thought, has to match (server/formats.py)
    forced: bool = False  # the grammar is one of tool calls (prompt/parsers/forced.py)
    branch: int = 0  # of several answers to one prompt
    keep_alive: float | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: int = -1  # as in GenerationRequest
    client: str = ""  # who asks: requests of one client share its turns
    timing: Timing = field(default_factory=Timing)


@dataclass(slots=True, kw_only=True)
class Reply:
    """A piece of the answer. The last one has done_reason and usage, and no pieces."""

    pieces: list[Piece] = field(default_factory=list)  # in order
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of text that may still be held back
    tokens: list[int] = field(default_factory=list)
    done_reason: DoneReason | None = None
    stop: str | None = None  # the stop sequence that ended the text
    usage: Usage | None = None
    context: list[int] | None = None  # prompt and answer, for a Question that is not raw
    index: int = 0  # of several answers to one request


class Conversation:
    """A request that has been checked. Raises RequestError in Ollama's words for what cannot be served."""

    def __init__(self, service: Service, asked: Asked) -> None:
        self._service = service
        self.asked = asked
        self.model = model = asked.model
        question = asked.question
        if (
            question is not None
            and question.raw
            and (question.template or question.system or question.context)
        ):
            raise RequestError("raw mode does not support template, system, or context")
        self.think = check_think(asked.think, model, asked.relax_thinking)
        self._said_think = None if asked.think is None else self.think
        if self.think == "max" and model.speaks_harmony:
            self.think = "high"  # it has no more
        check_completion(model, "chat" if question is None else "generate")
        check_tools(asked.tools)
        if asked.tools:
            check_capability(model, "tools")
        if question is not None and question.suffix:
            check_capability(model, "insert")
        self.prompt_length = 0  # tokens of the prompt, once replies have begun
        self._turns: list[Turn] = []
        self._parser: Parser | None = None
        self._render: Callable[[list[Turn]], str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it asks nothing but to load the model."""
        question = self.asked.question
        return not self.asked.messages if question is None else not (question.prompt or question.tokens)

    async def load(self) -> DoneReason:
        """Does what an empty conversation asks for."""
        async with self._resident():
            note_end("load")
            return "load"

    async def rendered(self) -> tuple[str, int]:
        """The prompt as text, and how many images it shows."""
        await asyncio.to_thread(self._prepare)
        async with self._resident() as loaded:
            prompt = await self._prompt(loaded)
            return prompt.text, _images(self._turns[prompt.start :])

    async def prompt_tokens(self) -> list[int]:
        """The prompt as the model would get it."""
        self._prepare()
        async with self._resident() as loaded:
            return (await self._prompt(loaded)).tokens

    async def decoded(self, tokens: list[int]) -> str:
        """The text of tokens. Raises RequestError for one that the model does not know."""
        async with self._resident() as loaded:
            return decoded(loaded, tokens)

    async def replies(self) -> AsyncGenerator[Reply, None]:
        """The answer. Closing the generator ends its work. Raises RequestError, EngineError."""
        await asyncio.to_thread(self._prepare, True)
        asked = self.asked
        assert self._parser is not None
        async with self._resident() as loaded:
            prompt = await self._prompt(loaded)
            parser = self._parser
            parser_input: list[str] = []
            keeps_text = asked.question is not None and not asked.question.raw
            self.prompt_length = len(prompt.tokens)
            limits = Limits(asked.truncate, asked.shift, asked.logprobs)
            constraint = None
            if asked.grammar is not None:
                constraint = Constraint(asked.grammar, parser.thought, parser.in_thought)
            generation = self._service.generation(
                loaded,
                prompt.tokens,
                asked.options,
                limits,
                visible_tokens(loaded, parser),
                asked.client,
                constraint,
                asked.branch,
            )
            async with generation as running:
                async for delta in running.deltas:
                    if keeps_text:
                        parser_input.append(delta.text)
                    reply = read(parser, delta)
                    if parser.in_tags and not reply.pieces:
                        reply.logprobs = []
                    for portion in portions(reply, len(delta.text)):
                        yield portion
                    if delta.done_reason is None:
                        continue
                    note_end(delta.done_reason)
                    if keeps_text:
                        text = prompt.text + "".join(parser_input)
                        reply.context = await tokenize(loaded, text, special=False)
                    yield reply
                    return

    def _resident(self) -> Any:
        asked = self.asked
        return self._service.resident(self.model, asked.keep_alive, asked.options, asked.timing)

    def _prepare(self, look: bool = False) -> None:
        """Parser and prompt; blocks. A template that refuses is an error before anything is loaded, and so are
        images when somebody has to look at them."""
        question = self.asked.question
        if question is not None:
            asked = [Message(role="user", content=question.prompt, images=question.images)]
            self._turns = chat_turns(self.model, asked, question.system, question.context is None)
            if look:
                check_vision(_images(self._turns), self.model)
            # a named parser is only told what the request says; raw text is read only if it asks for thoughts
            named = bool(self.model.parser_name)
            think = self._said_think if named or question.raw else self.think
            self._parser = self.model.parser(Setup(think=think), named=not question.raw)
            self._render = (
                None
                if question.raw
                else self.model.generate_renderer(question.template, question.suffix, self.think)
            )
        else:
            self._turns = without_old_thoughts(self.model, chat_turns(self.model, self.asked.messages))
            if look:
                check_vision(_images(self._turns), self.model)
            setup = Setup(self.asked.tools, self.think, self._turns[-1])
            self._parser = parser = self.model.parser(setup)
            offered = bool(self.asked.tools) or self.asked.empty_tools
            tools = [dict(tool) for tool in parser.tools] if offered else None
            if self.asked.forced:
                self._parser = forced_parser(parser, setup)
            self._render = lambda turns: self.model.render_chat(turns, tools, self.think)
        if self._render is not None:
            self._parser.follow(self._render(self._turns))

    async def _prompt(self, loaded: LoadedModel) -> Fitted:
        asked, question = self.asked, self.asked.question
        if self._render is None:
            assert question is not None
            if question.tokens:
                return Fitted("", question.tokens, 0)
            return Fitted(question.prompt, await tokenize(loaded, question.prompt), 0)
        earlier = earlier_text(loaded, question.context) if question is not None and question.context else ""
        limit = self._service.window(loaded, asked.options) if asked.truncate else None
        return await fit_messages(loaded, self._turns, self._render, limit, earlier, self.model.leading_bos)


def read(parser: Parser, delta: Delta) -> Reply:
    """What a delta of the engine says."""
    pieces = parser.push(delta.text) if delta.text else []
    if delta.done_reason is not None:
        pieces += parser.finish(cut=delta.done_reason == "length")
    return Reply(
        pieces=pieces,
        logprobs=delta.logprobs,
        tokens=delta.tokens,
        done_reason=delta.done_reason,
        stop=delta.stop,
        usage=(delta.usage or Usage()) if delta.done_reason is not None else None,
    )


_PORTION = 10  # characters of a text that was held back and leaves after all


def portions(reply: Reply, length: int) -> list[Reply]:
    """The pieces and logprobs of a reply; taken out of it if it is the last one.

    What turns out to be text after it was held back leaves in portions, as if it had come by itself. length:
    characters of the text that just came.
    """
    pieces: list[Piece] = []
    for piece in reply.pieces:
        if isinstance(piece, ToolCall) or len(piece.text) <= length + 2 * _PORTION:
            pieces.append(piece)
        else:
            kind, text = type(piece), piece.text
            pieces += [kind(text[at : at + _PORTION]) for at in range(0, len(text), _PORTION)]
    whole = len(pieces) == len(reply.pieces)
    if whole and reply.done_reason is None:
        return [reply] if pieces or reply.logprobs else []
    groups = ([pieces] if pieces or reply.logprobs else []) if whole else [[piece] for piece in pieces]
    replies = [Reply(pieces=group) for group in groups]
    if replies:
        replies[0].logprobs, replies[0].tokens = reply.logprobs, reply.tokens
    reply.pieces, reply.logprobs = [], []
    return replies


def visible_tokens(loaded: LoadedModel, parser: Parser) -> frozenset[int]:
    """The control tokens of the vocabulary that the parser has to see."""
    found = set()
    for text in parser.visible:
        tokens = loaded.tokenizer.encode(text, False, True)
        if len(tokens) == 1 and loaded.tokenizer.is_control(tokens[0]):
            found.add(tokens[0])
    return frozenset(found)


def _images(turns: list[Turn]) -> int:
    return sum(len(turn.get("images", ())) for turn in turns)


def chat_turns(
    model: ServedModel, messages: list[Message], system: str = "", with_history: bool = True
) -> list[Turn]:
    """Messages as templates see them: roles in lower case, the model's own history and system text before
    them."""
    asked = [as_turn(message) for message in messages]
    history = (
        [as_turn(msgspec.convert(message, Message)) for message in model.stored.messages]
        if with_history
        else []
    )
    system = system or model.stored.system
    if system and asked[0]["role"] != "system":
        history.insert(0, {"role": "system", "content": system})
    return history + asked


def without_old_thoughts(model: ServedModel, turns: list[Turn]) -> list[Turn]:
    """The thoughts that answers before the last question begin with are dropped for families that are not
    to see them."""
    if model.family != "qwen3" and model.stored.name.model.lower() != "deepseek-r1":
        return turns
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    return [
        {**turn, "content": without_thought(turn["content"])}
        if turn["role"] == "assistant" and i < last
        else turn
        for i, turn in enumerate(turns)
    ]


def without_thought(text: str) -> str:
    """A text without the thought that it begins with."""
    parser = GenericParser(Setup(think=True), Tags(("<think>", "</think>")))
    pieces = parser.push(text) + parser.finish()
    return "".join(piece.text for piece in pieces if isinstance(piece, Content))


def as_turn(message: Message) -> Turn:
    turn: Turn = {"role": message.role.lower(), "content": message.content}
    if message.thinking:
        turn["thinking"] = turn["reasoning_content"] = message.thinking
    if message.images:
        turn["images"] = list(message.images)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        turn["tool_name"] = turn["name"] = message.tool_name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def earlier_text(loaded: LoadedModel, context: list[int]) -> str:
    """The text of `context`, which goes before the prompt.

    Raises ServerError, which is the status that Ollama gives a token of no model.
    """
    try:
        return decoded(loaded, context)
    except RequestError as error:
        raise ServerError(str(error)) from None


def decoded(loaded: LoadedModel, tokens: list[int]) -> str:
    """The text of tokens that a request brings. Raises RequestError."""
    try:
        data: bytes = loaded.tokenizer.decode(tokens, True)
    except (ValueError, OverflowError, TypeError):
        raise RequestError("context has a token that the model does not know") from None
    return data.decode("utf-8", "replace")
