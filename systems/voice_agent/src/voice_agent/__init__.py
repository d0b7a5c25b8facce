"""A voice agent that answers the telephone.

Sound comes in from the carrier's media WebSocket and takes this way, one module a step:

    telnyx -> app -> switchboard -> call -> turn_taking (vad) -> stt -> llm -> sentences -> tts -> mouth -> the caller
"""
