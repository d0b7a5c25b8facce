"""The live figures as a message of OTLP (https://opentelemetry.io/docs/specs/otlp/, opentelemetry-proto metrics v1).

Sums and histograms are cumulative since the run began: of a message that is lost nothing is lost but its moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # without stubs of its own
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)

from busyhour.exporting.counting import Distribution, Labels, Series
from busyhour.exporting.families import Family, Kind

_POINTS = 20  # a fraction of a millisecond
_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1"}  # UCUM


class Message:
    """One push: add the families one by one, then take the octets."""

    def __init__(self, resource: Mapping[str, str], *, version: str, began_unix_ns: int, at_unix_ns: int) -> None:
        self._began_unix_ns, self._at_unix_ns = began_unix_ns, at_unix_ns
        self._request = ExportMetricsServiceRequest()
        of_run = self._request.resource_metrics.add()
        of_run.resource.attributes.extend(_attributes(list(resource), tuple(resource.values())))
        self._scope = of_run.scope_metrics.add()
        self._scope.scope.name, self._scope.scope.version = "busyhour", version

    def add(self, family: Family, series: Sequence[Series]) -> Iterator[None]:
        """Add it, some lines at a time."""
        if not series:
            return
        metric = self._scope.metrics.add()
        metric.name = f"{family.name}_info" if family.kind is Kind.INFO else family.name
        metric.description, metric.unit = family.help, _UNITS.get(family.unit, "")
        add = self._add_histograms if family.kind is Kind.HISTOGRAM else self._add_numbers
        for first in range(0, len(series), _POINTS):
            add(metric, family, series[first : first + _POINTS])
            yield

    def encoded(self) -> bytes:
        octets: bytes = self._request.SerializeToString()
        return octets

    def _add_numbers(self, metric: Metric, family: Family, series: Sequence[Series]) -> None:
        counter = family.kind is Kind.COUNTER
        if counter:
            metric.sum.aggregation_temporality, metric.sum.is_monotonic = AGGREGATION_TEMPORALITY_CUMULATIVE, True
        points = metric.sum.data_points if counter else metric.gauge.data_points
        for labels, value in series:
            assert not isinstance(value, Distribution)
            point: NumberDataPoint = points.add(
                attributes=_attributes(family.labels, labels),
                start_time_unix_nano=self._began_unix_ns if counter else 0,
                time_unix_nano=self._at_unix_ns,
            )
            if isinstance(value, int):
                point.as_int = value
            else:
                point.as_double = value

    def _add_histograms(self, metric: Metric, family: Family, series: Sequence[Series]) -> None:
        metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        for labels, value in series:
            assert isinstance(value, Distribution)
            metric.histogram.data_points.append(
                HistogramDataPoint(
                    attributes=_attributes(family.labels, labels),
                    start_time_unix_nano=self._began_unix_ns,
                    time_unix_nano=self._at_unix_ns,
                    count=sum(value.counts),
                    sum=value.total,
                    bucket_counts=value.counts,
                    explicit_bounds=family.edges,
                )
            )


def refused(octets: bytes) -> str:
    """What a collector that has taken a message did not take of it, in a clause; "" if it took all."""
    try:
        partial = ExportMetricsServiceResponse.FromString(octets).partial_success
    except DecodeError:
        return "an answer that is none of OTLP's; is this the address of a collector?"
    if not partial.rejected_data_points:
        return ""
    return f"{partial.rejected_data_points} figures were not taken: {partial.error_message}".removesuffix(": ")


def _attributes(names: Sequence[str], values: Labels) -> list[KeyValue]:
    return [
        KeyValue(key=name, value=AnyValue(string_value=value.encode("utf-8", "backslashreplace").decode("utf-8")))
        for name, value in zip(names, values, strict=True)
    ]
