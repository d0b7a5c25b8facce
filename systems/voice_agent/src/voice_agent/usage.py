"""What one call has used of its vendors, for its log line and the metrics. What it costs is for a price list to say."""

from __future__ import annotations

from collections import defaultdict

from voice_agent.metrics import Metrics


class Usage:
    """Of one call. The vendors' own figures where they give them: a reply that was cut short has told no tokens."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._used: defaultdict[str, float] = defaultdict(float)

    def thought(self, provider: str, prompt_tokens: int, completion_tokens: int) -> None:
        """By a language model."""
        self._used[f"{provider}_prompt_tokens"] += prompt_tokens
        self._used[f"{provider}_completion_tokens"] += completion_tokens
        self._metrics.tokens(provider, prompt_tokens, completion_tokens)

    def heard(self, provider: str, seconds: float) -> None:
        """Sound sent to be recognised."""
        self._used[f"{provider}_seconds"] += seconds
        self._metrics.heard(provider, seconds)

    def spoke(self, provider: str, characters: int) -> None:
        """Text sent to be synthesised."""
        self._used[f"{provider}_characters"] += characters
        self._metrics.spoke(provider, characters)

    def fields(self) -> dict[str, float]:
        """For the log: by provider and what is counted."""
        return {what: round(amount, 2) for what, amount in sorted(self._used.items())}
