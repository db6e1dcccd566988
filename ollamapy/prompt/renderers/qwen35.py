"""Qwen3.5 and its descendants Qwen3.8 and Ornith: ChatML with Qwen3-Coder's calls and thoughts of their own."""

from __future__ import annotations

from functools import partial

from ollamapy.prompt.errors import TemplateRenderError
from ollamapy.prompt.go_values import to_json, trim
from ollamapy.prompt.renderers.conversation import Call, Think, Turn
from ollamapy.prompt.renderers.images import with_images
from ollamapy.prompt.renderers.qwen3_coder import CALL_FORM, argument
from ollamapy.prompt.renderers.qwen3_vl import is_tool_response
from ollamapy.prompt.renderers.registry import Tools, Turns, register

_XHIGH = (
    "Reasoning effort is set to xhigh. Please think carefully through the task, validate key assumptions, "
    "consider plausible alternatives, and prioritize correctness, consistency, and clarity in the final answer."
)
_LOW = (
    "Reasoning effort is set to low. Keep your thinking brief and focused, moving directly to the conclusion "
    "without unnecessary elaboration."
)
_EFFORTS: dict[Think, str] = {None: _XHIGH, "low": _LOW, "high": _XHIGH, "max": _XHIGH}
"""what Qwen3.8 is told about an effort; the others need no words"""


def _system(text: str | None, tools: Tools, effort: str) -> str:
    """The system turn. text None: there is no system message."""
    parts = [effort] if effort else []
    if tools:
        offered = "".join(f"\n{to_json(tool.plain, spaces=True)}" for tool in tools)
        functions = (
            "# Tools\n\nYou have access to the following functions:\n\n<tools>" + offered + "\n</tools>"
        )
        parts.append(functions + CALL_FORM)
    elif text is None and not effort:
        return ""
    parts += [text] if text else []
    return "<|im_start|>system\n" + "\n\n".join(parts) + "<|im_end|>\n"


def _reasoning(thinking: str, content: str, tagged: bool) -> tuple[str, str]:
    """A turn's thoughts and its answer; tagged: thoughts may stand in tags within the content."""
    before, close, after = content.partition("</think>")
    if thinking or not tagged or not close:
        return trim(thinking), content
    return trim(before.rpartition("<think>")[2]), after.lstrip("\n")


def _calls(calls: tuple[Call, ...]) -> str:
    written = []
    for call in calls:
        values = "".join(
            f"<parameter={name}>\n{argument(value)}\n</parameter>\n" for name, value in call.arguments.items()
        )
        written.append(f"<tool_call>\n<function={call.name}>\n{values}</function>\n</tool_call>")
    return "\n".join(written)


def _assistant(turn: Turn, content: str, thought: bool, tagged: bool) -> str:
    thoughts, content = _reasoning(turn.thinking if thought else "", content, tagged)
    written = "<|im_start|>assistant\n" + (f"<think>\n{thoughts}\n</think>\n\n" if thought else "") + content
    if turn.calls and trim(content):
        written += "\n\n"
    return written + _calls(turn.calls)


def _render(
    turns: Turns,
    tools: Tools,
    think: Think,
    *,
    keeps_thoughts: bool = False,
    tagged: bool = True,
    effort: str = "",
    any_role: bool = False,
) -> str:
    """keeps_thoughts: of all turns, not of those after the last question alone. effort: words on how much to
    think. any_role: turns of unknown roles are written too."""
    thinks = think is None or bool(think)
    system = trim(with_images(turns[0])) if turns and turns[0].role == "system" else None
    if system == "" and any_role and not tools and not effort:
        system = None
    prompt = _system(system, tools, effort)
    questions = [
        i
        for i, turn in enumerate(turns)
        if turn.role == "user" and not is_tool_response(trim(with_images(turn)))
    ]
    question = questions[-1] if questions else len(turns) - 1
    images = 0
    for i, turn in enumerate(turns):
        content = trim(with_images(turn, images))
        images += turn.images
        last = i + 1 == len(turns)
        if turn.role == "assistant":
            thought = keeps_thoughts or (thinks and i > question)
            prompt += _assistant(turn, content, thought, tagged) + ("" if last else "<|im_end|>\n")
        elif turn.role == "tool":  # neighbours share one turn of the user
            if i == 0 or turns[i - 1].role != "tool":
                prompt += "<|im_start|>user"
            prompt += f"\n<tool_response>\n{content}\n</tool_response>"
            if last or turns[i + 1].role != "tool":
                prompt += "<|im_end|>\n"
        elif turn.role == "user" or (i and turn.role == "system") or (any_role and turn.role != "system"):
            prompt += f"<|im_start|>{turn.role}\n{content}<|im_end|>\n"
    if turns and turns[-1].role != "assistant":
        prompt += "<|im_start|>assistant\n<think>\n" + ("" if thinks else "\n</think>\n\n")
    return prompt


def _one_system(turns: Turns) -> Turns:
    """All instructions, of the system and of developers, in one turn in front. Raises TemplateRenderError for
    images in them."""
    instructions = [turn for turn in turns if turn.role in ("system", "developer")]
    for turn in instructions:
        if turn.images:
            raise TemplateRenderError(f"{turn.role} message cannot contain images")
    if not instructions or (len(instructions) == 1 and turns[0].role == "system"):
        return turns
    texts = [text for turn in instructions if (text := trim(turn.content))]
    rest = [turn for turn in turns if turn.role not in ("system", "developer")]
    return [Turn("system", "\n\n".join(texts)), *rest]


def _render_38(turns: Turns, tools: Tools, think: Think) -> str:
    turns = _one_system(turns)
    if not turns:
        raise TemplateRenderError("no messages provided")
    if all(turn.role != "user" or is_tool_response(trim(with_images(turn))) for turn in turns):
        raise TemplateRenderError("no user query found in messages")
    effort = _EFFORTS.get(think, "")
    return _render(turns, tools, think, keeps_thoughts=True, tagged=False, effort=effort, any_role=True)


register("qwen3.5", _render)
register("qwen3.8", _render_38)
register("ornith", partial(_render, keeps_thoughts=True))
