"""The scripts that a model name alone asks for.

| model | answer |
|---|---|
| any other | a short text in five pieces, with cached tokens |
| fake-long | 400 pieces, 20 ms apart |
| fake-slow | the first byte after 1 s, then 200 ms between events |
| fake-thinking | a thought, then the text |
| fake-tools | a text and a call of `get_weather`; once there are tool results, the text alone |
| fake-two-tools | the same with two calls |
| fake-offered-tool | a call of the first tool that the request offers; once there are tool results, a text |
| fake-cached | nearly all input from the cache, some written to it |
| fake-incomplete | ends at the token limit |
| fake-gzip | compressed, asked for or not |
| fake-error-STATUS | 400, 401, 403, 404, 413, 429 (with `Retry-After`), 500, 503, 504, 529 |
| fake-stream-error | two events, then an error event |
| fake-cut, fake-reset | three events, then FIN or RST |
| fake-refuse | closes without an answer |
| fake-stall | three events, then silence |
| fake-silent | silence from the start |
"""

from collections.abc import Mapping

from bridgeserver.fakeprovider.script import Fault, Script, ToolCall

_WEATHER = ToolCall("get_weather", '{"city": "Paris", "unit": "celsius"}')
_TIME = ToolCall("get_time", '{"zone": "Europe/Paris"}')
_NEEDS_TOOL = "A tool knows the answer."

_FAULTS = {
    f"fake-error-{status}": Script(fail=Fault(status, retry_after="1" if status == 429 else ""))
    for status in (400, 401, 403, 404, 413, 429, 500, 503, 504, 529)
}

SCRIPTS: Mapping[str, Script] = {
    "fake-long": Script(text="a word " * 400, events=400, gap_s=0.02, output_tokens=800),
    "fake-slow": Script(first_delay_s=1.0, gap_s=0.2),
    "fake-thinking": Script(thinking="They greet me. I will greet them too.", output_tokens=30, reasoning_tokens=18),
    "fake-tools": Script(text=_NEEDS_TOOL, tools=(_WEATHER,), tool_turns=1),
    "fake-two-tools": Script(text=_NEEDS_TOOL, tools=(_WEATHER, _TIME), tool_turns=1),
    "fake-offered-tool": Script(text=_NEEDS_TOOL, tools=(ToolCall("*"),), tool_turns=1),
    "fake-cached": Script(input_tokens=3, cache_read_tokens=2048, cache_write_tokens=128),
    "fake-incomplete": Script(text="This answer ends in the middle of a", is_incomplete=True),
    "fake-gzip": Script(encoding="gzip"),
    "fake-stream-error": Script(stream_error_after=2),
    "fake-cut": Script(cut_after=3),
    "fake-reset": Script(cut_after=3, reset=True),
    "fake-refuse": Script(cut_after=0),
    "fake-stall": Script(stall_after=3),
    "fake-silent": Script(stall_after=0),
    **_FAULTS,
}

DEFAULT = Script()
