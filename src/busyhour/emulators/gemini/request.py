"""Reading a generateContent request as the vendor does: what is accepted, and the error each mistake is answered with.

Source: the API reference of v1beta, and the wire forms of the google-genai SDK. The API is protocol buffers in JSON: a
field may be written in camelCase or in snake_case, null is absent, and a field that a message does not have is
refused. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from busyhour.emulators.language_model import Asked, Finished, Refused, Shape, outline, prompt_tokens
from busyhour.emulators.receptionist import Said, Tool, Unfillable, check_schema
from busyhour.model import JSON

_FIELDS = (
    *("model", "contents", "tools", "toolConfig", "safetySettings", "systemInstruction", "generationConfig"),
    *("cachedContent", "labels", "serviceTier", "store"),
)
_CONFIG = (
    *("stopSequences", "responseMimeType", "responseSchema", "responseJsonSchema", "_responseJsonSchema"),
    *("responseModalities", "candidateCount", "maxOutputTokens", "temperature", "topP", "topK", "seed"),
    *("presencePenalty", "frequencyPenalty", "responseLogprobs", "logprobs", "enableEnhancedCivicAnswers"),
    *("speechConfig", "thinkingConfig", "imageConfig", "mediaResolution", "audioTimestamp", "routingConfig"),
)
_ROLES = ("user", "model", "function", "tool")
_PARTS = (
    *("text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode"),
    *("codeExecutionResult", "toolCall", "toolResponse"),
)
_PART_FIELDS = (*_PARTS, "thought", "thoughtSignature", "videoMetadata", "partMetadata", "mediaResolution")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_STOPS_AT_MOST = 5
_DEEPEST = 32
MakeShape = Callable[[Finished], Shape]


def parsed(raw: bytes) -> dict[str, Any]:
    """The body as an object. Raises Refused."""
    try:
        body = json.loads(raw or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError) as problem:
        raise invalid(f"Invalid JSON payload received. {problem}") from None
    if not isinstance(body, dict):
        raise invalid(f"Invalid JSON payload received. Root element must be a message, not {_said(body)}.")
    return body


def asked(body: Mapping[str, Any], *, model: str, stream: bool, shape: MakeShape) -> Asked:
    """A generateContent request. Raises Refused."""
    form = fields(body, _FIELDS, "")
    conversation = [*_system(form), *_conversation(form)]
    config = fields(form.get("generationConfig", {}), _CONFIG, "generation_config")
    tools = _tools(form.get("tools", []))
    choice = _choice(form.get("toolConfig", {}), tools)
    limit = _number(config, "maxOutputTokens", 1, 2**31 - 1, whole=True)
    _check_sampling(config)
    return Asked(
        model=model,
        conversation=conversation,
        shape=shape,
        stream=stream,
        tools=choice.tools,
        force_tool=choice.force,
        tokens_at_most=None if limit is None else int(limit),
        stops=_stops(config),
        schema=_schema(config, has_tools=bool(tools)),
        prompt_tokens=prompt_tokens(conversation, form.get("tools")),
    )


def outlined(raw: bytes, *, model: str, stream: bool, shape: MakeShape) -> Asked:
    """A generateContent request in outline, whatever it is."""

    def structured(body: Mapping[str, Any]) -> bool:
        config = body.get("generationConfig", body.get("generation_config"))
        kinds = (config.get("responseMimeType"), config.get("response_mime_type")) if isinstance(config, dict) else ()
        return "application/json" in kinds

    return outline(
        raw, turns="contents", content="parts", structured=structured, shape=shape, model=model, stream=stream
    )


def counted(body: Mapping[str, Any]) -> int:
    """The tokens of a countTokens request: of its contents, or of a whole generateContent request. Raises Refused."""
    form = fields(body, ("model", "contents", "generateContentRequest"), "")
    if "generateContentRequest" in form:
        if "contents" in form:
            raise invalid("Only one of 'contents' and 'generate_content_request' may be set.")
        form = fields(form["generateContentRequest"], _FIELDS, "generate_content_request")
    tools = form.get("tools", [])
    _tools(tools)
    return prompt_tokens([*_system(form), *_conversation(form)], tools)


def invalid(message: str, *, field: str = "") -> Refused:
    """400 INVALID_ARGUMENT."""
    return Refused(message, kind="INVALID_ARGUMENT", param=field)


def fields(form: Any, known: Sequence[str], where: str) -> dict[str, Any]:
    """A message with camelCase keys out of `known`, without its nulls. Raises Refused."""
    if not isinstance(form, dict):
        raise invalid(f"Invalid value at '{where}': expected an object, got {_said(form)}", field=where)
    names = {name: name for name in known} | {_snake(name): name for name in known}
    for key in form:
        if key not in names:
            place = f" at '{where}'" if where else ""
            message = f'Invalid JSON payload received. Unknown name "{key[:80]}"{place}: Cannot find field.'
            raise invalid(message, field=where or key[:80])
    return {names[key]: value for key, value in form.items() if value is not None}


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


# ---------------------------------------------------------------- what was said


def _system(form: Mapping[str, Any]) -> list[Said]:
    instruction = form.get("systemInstruction")
    if instruction is None:
        return []
    content = fields(instruction, ("role", "parts"), "system_instruction")
    parts = _parts(content, "system_instruction")
    return [Said(role="system", text=" ".join(_string(part, "text") for part in parts if "text" in part))]


def _conversation(form: Mapping[str, Any]) -> list[Said]:
    contents = form.get("contents")
    if isinstance(contents, dict):
        contents = [contents]  # a repeated field of one element may be written without its brackets
    if contents is None or contents == []:
        raise invalid("* GenerateContentRequest.contents: contents is not specified\n", field="contents")
    if not isinstance(contents, list):
        raise invalid(f"Invalid value at 'contents': expected a list, got {_said(contents)}", field="contents")
    said: list[Said] = []
    waiting = 0  # calls of the turn before that still want their response
    for index, item in enumerate(contents):
        where = f"contents[{index}]"
        content = fields(item, ("role", "parts"), where)
        role = content.get("role", "user")
        if role not in _ROLES:
            raise invalid("Please use a valid role: user, model.", field=f"{where}.role")
        parts = _parts(content, where)
        calls = sum("functionCall" in part for part in parts)
        responses = sum("functionResponse" in part for part in parts)
        if responses != waiting and (waiting or responses):
            raise invalid(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        waiting = calls if role == "model" else 0
        said += _turn("assistant" if role == "model" else "user", parts, where)
    return said


def _parts(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    parts = content.get("parts")
    if isinstance(parts, dict):
        parts = [parts]
    if not isinstance(parts, list) or not parts:
        raise invalid(f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.\n", field=where)
    read = [fields(part, _PART_FIELDS, f"{where}.parts[{index}]") for index, part in enumerate(parts)]
    for index, part in enumerate(read):
        if sum(name in part for name in _PARTS) != 1:
            place = f"{where}.parts[{index}].data"
            message = f"* GenerateContentRequest.{place}: required oneof field 'data' must have one initialized field\n"
            raise invalid(message, field=place)
    return read


def _turn(role: str, parts: Sequence[Mapping[str, Any]], where: str) -> list[Said]:
    said = []
    texts = [_string(part, "text") for part in parts if "text" in part and not part.get("thought")]
    for part in parts:
        if "functionCall" in part:
            _name(part["functionCall"], f"{where}.parts.function_call", ("id", "name", "args"))
        if "functionResponse" in part:
            known = ("id", "name", "response", "willContinue", "scheduling", "parts")
            name = _name(part["functionResponse"], f"{where}.parts.function_response", known)
            said.append(Said(role="tool", text=_result(part["functionResponse"].get("response")), tool=name))
    if texts or not said:
        said.append(Said(role=role, text=" ".join(texts)))
    return said


def _result(response: Any) -> str:
    """What a function answered: a response that wraps one value, as the SDK's does, is that value."""
    if isinstance(response, dict) and len(response) == 1:
        for key in ("result", "output"):
            if key in response:
                response = response[key]
                return response if isinstance(response, str) else json.dumps(response)
    return json.dumps(response)


def _name(form: Any, where: str, known: Sequence[str]) -> str:
    message = fields(form, known, where)
    name = _string(message, "name")
    if not name:
        raise invalid(f"* GenerateContentRequest.{where}.name: Name cannot be empty.\n", field=f"{where}.name")
    return name


# ---------------------------------------------------------------- functions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The functions that may be called, and which must be: None for none, "" for any."""

    tools: Sequence[Tool]
    force: str | None = None


def _tools(tools: Any) -> list[Tool]:
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        raise invalid(f"Invalid value at 'tools': expected a list, got {_said(tools)}", field="tools")
    offered = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise invalid(f"Invalid value at 'tools[{index}]': expected an object, got {_said(tool)}", field="tools")
        declared = tool.get("functionDeclarations", tool.get("function_declarations")) or []
        if not isinstance(declared, list):
            raise invalid(f"Invalid value at 'tools[{index}].function_declarations': expected a list", field="tools")
        offered += [_declared(one, f"tools[{index}].function_declarations[{at}]") for at, one in enumerate(declared)]
    names = [tool.name for tool in offered]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise invalid(f"Duplicate function declaration found: {twice[:80]}", field="tools")
    return offered


def _declared(form: Any, where: str) -> Tool:
    known = ("name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema", "behavior")
    declared = fields(form, known, where)
    name = _string(declared, "name")
    if not _NAME.fullmatch(name):
        raise invalid(
            f"* GenerateContentRequest.{where}.name: Invalid function name. Must start with a letter or an underscore. "
            "Must be alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with a "
            "maximum length of 128.\n",
            field=f"{where}.name",
        )
    parameters = declared.get("parametersJsonSchema")
    if parameters is None and "parameters" in declared:
        parameters = json_schema(declared["parameters"], f"{where}.parameters")
    return Tool(name=name, parameters=parameters if isinstance(parameters, dict) else {})


def _choice(form: Any, tools: Sequence[Tool]) -> _Choice:
    config = fields(
        form, ("functionCallingConfig", "retrievalConfig", "includeServerSideToolInvocations"), "tool_config"
    )
    where = "tool_config.function_calling_config"
    calling = fields(
        config.get("functionCallingConfig", {}), ("mode", "allowedFunctionNames", "streamFunctionCallArguments"), where
    )
    mode, names = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames", [])
    if mode not in ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"):
        raise invalid(f"Invalid value at '{where}.mode' (type.googleapis.com/...Mode), {_said(mode)}", field=where)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid(f"Invalid value at '{where}.allowed_function_names': expected a list of strings", field=where)
    if names and mode not in ("ANY", "VALIDATED"):
        raise invalid("Allowed function names should only be set when the function calling mode is ANY.", field=where)
    if unknown := next((name for name in names if name not in {tool.name for tool in tools}), ""):
        raise invalid(f"Allowed function name {unknown[:80]!r} is not among the declared functions.", field=where)
    if mode == "NONE":
        return _Choice(tools=())
    allowed = [tool for tool in tools if not names or tool.name in names]
    if mode == "ANY" and not allowed:
        raise invalid("Function calling mode is ANY, but no functions are declared.", field=where)
    return _Choice(tools=allowed, force=None if mode != "ANY" else names[0] if len(names) == 1 else "")


# ---------------------------------------------------------------- generationConfig


def _check_sampling(config: Mapping[str, Any]) -> None:
    _number(config, "temperature", 0, 2)
    _number(config, "topP", 0, 1)
    _number(config, "topK", 1, 1000)
    if (_number(config, "candidateCount", 1, 8, whole=True) or 1) != 1:
        raise invalid("This twin makes one candidate: candidateCount must be 1.", field="generation_config")
    modalities = config.get("responseModalities", [])
    if modalities and modalities not in (["TEXT"], ["text"]):
        raise invalid("This twin answers with text: responseModalities must be ['TEXT'].", field="generation_config")


def _stops(config: Mapping[str, Any]) -> list[str]:
    stops = config.get("stopSequences", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid("Invalid value at 'generation_config.stop_sequences': expected a list of strings")
    if len(stops) > _STOPS_AT_MOST:
        raise invalid(f"The number of stop_sequences must be at most {_STOPS_AT_MOST}, got {len(stops)}.")
    return [stop for stop in stops if stop]


def _schema(config: Mapping[str, Any], *, has_tools: bool) -> Mapping[str, JSON] | None:
    kind = config.get("responseMimeType", "text/plain")
    own, standard = config.get("responseSchema"), config.get("responseJsonSchema", config.get("_responseJsonSchema"))
    if kind not in ("text/plain", "application/json"):
        raise invalid(
            f"* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes of this twin are "
            f"`text/plain` and `application/json`, got {_said(kind)}\n"
        )
    if own is not None and standard is not None:
        raise invalid(
            "* GenerateContentRequest.generation_config: only one of response_schema and response_json_schema\n"
        )
    if kind == "text/plain":
        if own is not None or standard is not None:
            raise invalid(
                "* GenerateContentRequest.generation_config.response_schema: only allowed with a JSON mimetype\n"
            )
        return None
    if has_tools:
        raise invalid("Function calling with a response mime type: 'application/json' is unsupported")
    schema = json_schema(own, "generation_config.response_schema") if own is not None else standard
    if schema is None:
        return {}
    if not isinstance(schema, dict):
        raise invalid(f"Invalid value at 'generation_config.response_json_schema': got {_said(schema)}")
    try:
        check_schema(schema, strict=False)
    except Unfillable as problem:
        raise invalid(f"Invalid schema at 'generation_config.response_schema': {problem}") from None
    return schema


def json_schema(form: Any, where: str, depth: int = 0) -> dict[str, JSON]:
    """The vendor's Schema message (a subset of OpenAPI's) as JSON Schema. Raises Refused."""
    known = (
        *("type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems", "properties"),
        *("required", "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "example", "anyOf"),
        *("propertyOrdering", "default", "items", "minimum", "maximum", "additionalProperties", "defs", "ref"),
    )
    if depth > _DEEPEST:
        raise invalid(f"The schema at '{where[:80]}' is nested deeper than {_DEEPEST} levels.", field=where[:80])
    schema = fields(form, known, where)
    made: dict[str, JSON] = {key: value for key, value in schema.items() if key not in _TRANSLATED}
    kind = schema.get("type")
    if kind is not None:
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise invalid(f"Invalid value at '{where}.type' (type.googleapis.com/...Type), {_said(kind)}", field=where)
        made["type"] = kind.lower()
    if isinstance(schema.get("properties"), dict):
        names = _ordered(schema)
        made["properties"] = {
            name: json_schema(schema["properties"][name], f"{where}.properties[{name[:80]}]", depth + 1)
            for name in names
        }
    if "items" in schema:
        made["items"] = json_schema(schema["items"], f"{where}.items", depth + 1)
    if isinstance(schema.get("anyOf"), list):
        made["anyOf"] = [json_schema(one, f"{where}.any_of", depth + 1) for one in schema["anyOf"]]
    for name in _COUNTS:  # 64-bit integers are strings in this JSON
        if isinstance(schema.get(name), str) and re.fullmatch("[0-9]{1,9}", schema[name]):
            made[name] = int(schema[name])
    if schema.get("nullable") is True:
        made = {"anyOf": [made, {"type": "null"}]}
    return made


_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null", "type_unspecified")
_TRANSLATED = ("type", "properties", "items", "anyOf", "nullable", "propertyOrdering", "example", "defs", "ref")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def _ordered(schema: Mapping[str, Any]) -> list[str]:
    """The names of the properties, in the order that is asked for."""
    order = schema.get("propertyOrdering")
    first = (
        [name for name in order if isinstance(name, str) and name in schema["properties"]]
        if isinstance(order, list)
        else []
    )
    return list(dict.fromkeys([*first, *schema["properties"]]))


def _number(form: Mapping[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> float | None:
    value = form.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and value % 1 != 0):
        kind = "TYPE_INT32" if whole else "TYPE_FLOAT"
        where = f"generation_config.{_snake(name)}"
        raise invalid(f"Invalid value at '{where}' ({kind}), {_said(value)}", field=where)
    if not low <= value <= high:
        message = (
            f"Unable to submit request because it has a {name} value of {_said(value)} but the supported range is "
        )
        raise invalid(f"{message}from {low} to {high}. Update the value and try again.", field="generation_config")
    return float(value)


def _string(form: Mapping[str, Any], name: str) -> str:
    value = form.get(name, "")
    if not isinstance(value, str):
        raise invalid(f"Invalid value at '{name}' (TYPE_STRING), {_said(value)}", field=name)
    return value


def _said(value: object) -> str:
    return f"{value!r:.80}"
