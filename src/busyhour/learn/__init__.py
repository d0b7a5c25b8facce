"""`busyhour learn`: a proxy before a vendor that changes nothing, and writes down how long the vendor takes.

`proxy` passes HTTP and WebSockets on and tells a `Student` of every message and when it came; the students (`llm`,
`tts`, `stt`, `vectors`) know where in a vendor's wire format a token, a chunk or a final is; `lessons` keeps figures.
"""
