"""The control plane, as far as the SDK needs it: indexes are listed, described, made and deleted.

Since 2026-07 an index is described by a schema and a deployment, before by dimension, metric and spec; the header
X-Pinecone-Api-Version says which one the client reads. Source: the types of the pinecone SDK and the API reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from busyhour.emulators.pinecone.refusal import Refused
from busyhour.emulators.pinecone.store import METRICS, Index
from busyhour.model import JSON

DIMENSION_AT_MOST = 20_000
INDEXES_AT_MOST = 20
SCHEMA_SINCE = "2026-01"
"""From this version of the API on, an index has a schema."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
_DENSE_FIELD = "_values"


def described(index: Index, host: str, version: str) -> dict[str, JSON]:
    """The index as the client of this version reads it."""
    form: dict[str, JSON] = {
        "name": index.name,
        "host": host,
        "status": {"ready": True, "state": "Ready"},
        "deletion_protection": index.deletion_protection,
        "tags": index.tags or None,
    }
    if version >= SCHEMA_SINCE:
        dense: JSON = {"type": "dense_vector", "dimension": index.dimension, "metric": index.metric}
        return {
            **form,
            "schema": {"fields": {_DENSE_FIELD: dense}},
            "deployment": {"deployment_type": "managed", "cloud": index.cloud, "region": index.region},
            "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}},
        }
    spec: JSON = {"serverless": {"cloud": index.cloud, "region": index.region}}
    return {**form, "dimension": index.dimension, "metric": index.metric, "vector_type": "dense", "spec": spec}


def created(form: Mapping[str, Any]) -> Index:
    """The index of a create request, in either form. Raises Refused."""
    shape, place = form, form.get("spec")
    if "schema" in form:
        shape, place = _dense_field(form["schema"]), {"serverless": form.get("deployment") or {}}
    if form.get("vector_type", "dense") != "dense":
        raise Refused("Bad request: this twin holds dense vectors; vector_type must be 'dense'")
    name = checked_name(form.get("name"))
    cloud, region = _where(place)
    protection = form.get("deletion_protection") or "disabled"
    if protection not in ("enabled", "disabled"):
        raise Refused(f"Bad request: deletion_protection must be 'enabled' or 'disabled', got {protection!r:.80}")
    return Index(
        name=name,
        dimension=checked_dimension(shape.get("dimension")),
        metric=checked_metric(shape.get("metric", "cosine")),
        cloud=cloud,
        region=region,
        deletion_protection=protection,
        tags=_tags(form.get("tags")),
    )


def checked_name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(
            f"Invalid name {name!r:.80}: it must consist of 1 to 45 lower case alphanumeric characters or '-', and "
            "must begin and end with an alphanumeric character"
        )
    return name


def checked_dimension(dimension: Any) -> int:
    if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= DIMENSION_AT_MOST:
        raise Refused(f"Invalid dimension {dimension!r:.80}: it must be an integer from 1 to {DIMENSION_AT_MOST}")
    return dimension


def checked_metric(metric: Any) -> str:
    if metric not in METRICS:
        raise Refused(f"Invalid metric {metric!r:.80}: it must be one of {', '.join(METRICS)}")
    return str(metric)


def _dense_field(schema: Any) -> Mapping[str, Any]:
    fields = schema.get("fields") if isinstance(schema, dict) else None
    field = fields.get(_DENSE_FIELD) if isinstance(fields, dict) and len(fields) == 1 else None
    if not isinstance(field, dict) or field.get("type") != "dense_vector":
        raise Refused(
            f"Bad request: this twin serves the vectors API; the schema must have the one field {_DENSE_FIELD!r} of "
            "type 'dense_vector'"
        )
    return field


def _where(place: Any) -> tuple[str, str]:
    inner = place.get("serverless") if isinstance(place, dict) else None
    if not isinstance(inner, dict) or inner.get("deployment_type", "managed") != "managed":
        raise Refused("Bad request: this twin has serverless indexes; spec must be {'serverless': {cloud, region}}")
    cloud, region = inner.get("cloud", "aws"), inner.get("region", "us-east-1")
    if not isinstance(cloud, str) or not isinstance(region, str):
        raise Refused("Bad request: cloud and region must be strings")
    return cloud[:80], region[:80]


def _tags(tags: Any) -> dict[str, str]:
    if tags is None:
        return {}
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()) or len(tags) > 20:
        raise Refused("Bad request: tags must be an object of at most 20 strings")
    return {key: value for key, value in tags.items() if value}
