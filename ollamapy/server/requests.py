"""The bodies of the native API. Every field may be absent. What is wrong with a value by itself is said when it is
read; keep_alive is in seconds from then on."""

from __future__ import annotations

from typing import Any

import msgspec

from ollamapy.server.checks import check_images, check_think_value
from ollamapy.server.duration import keep_alive


class NamedRequest(msgspec.Struct, kw_only=True):
    """`model`, which older clients call `name`."""

    model: str = ""
    name: str = ""

    @property
    def model_name(self) -> str:
        return self.model or self.name


class ToolCallFunction(msgspec.Struct, kw_only=True, omit_defaults=True):
    name: str = ""
    arguments: dict[str, Any] = {}
    index: int = 0


class ToolCall(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str = ""
    type: str = ""
    function: ToolCallFunction = msgspec.field(default_factory=ToolCallFunction)


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    role: str = ""
    content: str = ""
    thinking: str = ""
    images: list[str] = []
    tool_calls: list[ToolCall] = []
    tool_name: str = ""
    tool_call_id: str = ""

    def __post_init__(self) -> None:
        check_images(self.images)


class GenerateRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] | None = None  # an empty one too leaves out the history of the model
    stream: bool = True
    raw: bool = False
    format: Any = None
    keep_alive: Any = None
    images: list[str] = []
    options: dict[str, Any] = {}
    think: Any = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")

    def __post_init__(self) -> None:
        self.keep_alive = keep_alive(self.keep_alive)
        check_think_value(self.think)
        check_images(self.images)


class ChatRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    messages: list[Message] = []
    tools: list[dict[str, Any]] | None = None
    stream: bool = True
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] = {}
    think: Any = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")

    def __post_init__(self) -> None:
        self.keep_alive = keep_alive(self.keep_alive)
        check_think_value(self.think)


class EmbedRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    input: Any = None
    truncate: bool = True
    dimensions: int = 0
    keep_alive: Any = None
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        self.keep_alive = keep_alive(self.keep_alive)


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    prompt: str = ""
    keep_alive: Any = None
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        self.keep_alive = keep_alive(self.keep_alive)


class ShowRequest(NamedRequest, kw_only=True):
    system: str = ""
    options: dict[str, Any] = {}
    verbose: bool = False


class CopyRequest(msgspec.Struct, kw_only=True):
    source: str = ""
    destination: str = ""


class CreateRequest(NamedRequest, kw_only=True):
    stream: bool = True
    quantize: str = ""
    older_quantize: str = msgspec.field(default="", name="quantization")
    draft_quantize: str = ""
    from_name: str = msgspec.field(default="", name="from")
    remote_host: str = ""
    files: dict[str, str] | None = None
    draft_files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str = ""
    license: Any = None
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: list[Message] = []
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: dict[str, Any] = {}

    @property
    def quantization(self) -> str:
        """`quantize`, which older clients call `quantization`."""
        return self.quantize or self.older_quantize


class TransferRequest(NamedRequest, kw_only=True):
    """A pull or a push."""

    insecure: bool = False
    stream: bool = True
