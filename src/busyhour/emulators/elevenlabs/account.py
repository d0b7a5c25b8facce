"""What the ElevenLabs twin tells of voices, models and the account: how many characters were billed so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from busyhour.model import JSON

_VOICES = (("21m00Tcm4TlvDq8ikWAM", "Rachel"), ("EXAVITQu4vr4xnSDxMaL", "Sarah"), ("JBFqnCBsd6RMkjVDRZzb", "George"))
_MODELS = {
    "eleven_multilingual_v2": ("Eleven Multilingual v2", 1.0, 10_000),
    "eleven_flash_v2_5": ("Eleven Flash v2.5", 0.5, 40_000),
    "eleven_turbo_v2_5": ("Eleven Turbo v2.5", 0.5, 40_000),
}
_CHARACTERS_A_MONTH = 100_000_000
"""More than any run asks for: an exhausted account is an outcome, "quota", and no accident."""


def _voice(identity: str, name: str) -> dict[str, JSON]:
    return {
        "voice_id": identity,
        "name": name,
        "category": "premade",
        "labels": {"language": "en"},
        "description": "The voice of the twin: all have the same.",
        "preview_url": None,
        "settings": None,
        "high_quality_base_model_ids": list(_MODELS),
    }


def _voices(_: int) -> JSON:
    voices = [_voice(*voice) for voice in _VOICES]
    return {"voices": voices, "has_more": False, "total_count": len(voices), "next_page_token": None}


def _models(_: int) -> JSON:
    return [
        {
            "model_id": identity,
            "name": name,
            "can_be_finetuned": False,
            "can_do_text_to_speech": True,
            "can_do_voice_conversion": False,
            "can_use_style": False,
            "can_use_speaker_boost": False,
            "serves_pro_voices": False,
            "token_cost_factor": cost,
            "description": name,
            "requires_alpha_access": False,
            "maximum_text_length_per_request": longest,
            "languages": [{"language_id": "en", "name": "English"}],
            "model_rates": {"character_cost_multiplier": cost},
            "concurrency_group": "standard",
        }
        for identity, (name, cost, longest) in _MODELS.items()
    ]


def _subscription(characters: int) -> dict[str, JSON]:
    return {
        "tier": "scale",
        "character_count": characters,
        "character_limit": _CHARACTERS_A_MONTH,
        "max_character_limit_extension": None,
        "max_credit_limit_extension": 0,
        "can_extend_character_limit": False,
        "allowed_to_extend_character_limit": False,
        "next_character_count_reset_unix": None,
        "voice_slots_used": len(_VOICES),
        "professional_voice_slots_used": 0,
        "professional_voice_slots_used_in_workspace": 0,
        "voice_limit": 30,
        "voice_add_edit_counter": 0,
        "professional_voice_limit": 1,
        "can_extend_voice_limit": False,
        "can_use_instant_voice_cloning": False,
        "can_use_professional_voice_cloning": False,
        "currency": "usd",
        "current_overage": {"amount": "0", "currency": "usd"},
        "status": "active",
        "billing_period": "monthly_period",
        "character_refresh_period": "monthly_period",
        "has_open_invoices": False,
        "open_invoices": [],
        "next_invoice": None,
    }


def _user(characters: int) -> JSON:
    return {
        "user_id": "twin",
        "workspace_id": "twin",
        "subscription": _subscription(characters),
        "is_new_user": False,
        "can_use_delayed_payment_methods": False,
        "is_onboarding_completed": True,
        "is_onboarding_checklist_completed": True,
        "created_at": 1_700_000_000,
        "seat_type": "workspace_admin",
    }


ANSWERS: Mapping[str, Callable[[int], JSON]] = {
    "/v1/voices": _voices,
    "/v2/voices": _voices,
    "/v1/models": _models,
    "/v1/user": _user,
    "/v1/user/subscription": _subscription,
}
"""What is answered at a path, given how many characters were billed so far."""
