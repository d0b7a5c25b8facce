"""The Pinecone twin as a process, and the records it begins with."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import numpy as np
import pytest

from busyhour.emulators import Constant
from busyhour.emulators.pinecone import Pinecone
from busyhour.emulators.pinecone.api import Settings
from busyhour.emulators.pinecone.store import Namespace, Record, measured
from busyhour.errors import PlanError, ServiceError

RECORDS: list[dict[str, Any]] = [
    {"id": "a", "values": [1.0, 0.0], "metadata": {"text": "open from nine to five"}},
    {"id": "b", "values": [0.0, 1.0], "namespace": "prices"},
]


def held(path: Path, **more: Any) -> dict[str, list[str]]:
    """What a twin that is given this file begins with: namespace -> ids."""
    index = Settings.read({"records": str(path), **more}).index
    return {name: sorted(space.rows) for name, space in index.namespaces.items()}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        json.dumps({"vectors": RECORDS}),
        "\n".join(json.dumps(record) for record in RECORDS) + "\n\n",
    ],
)
def test_a_file_of_records_in_each_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records"
    path.write_text(text)
    assert held(path) == {"": ["a"], "prices": ["b"]}
    assert Settings.read({"records": str(path)}).index.dimension == 2


def test_one_line_of_json_lines_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(RECORDS[0]) + "\n")
    assert held(path) == {"": ["a"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "records: {path} is not JSON"),
        ('{"id": "a", "values": [1]}\n{"id": "b"', "records: {path}, line 2 is not JSON"),
        ('{"records": []}', "records: {path} holds no list of records; give a list, or one record on each line."),
        ('[{"id": "a", "values": [1]}, 7]', "records: {path}, record 1: expected an object, got 7."),
        (
            '[{"id": "a", "values": [1, 2]}, {"id": "b", "values": [1]}]',
            "records: {path}, record 1: Vector dimension 1 does not match the dimension of the index 2.",
        ),
        ('[{"id": "a", "values": ["x"]}]', "record.values[0]: invalid value 'x' for type TYPE_FLOAT."),
        ('[{"id": "a", "values": [1], "metadata": {"deep": {}}}]', "Metadata value must be a string, number"),
        ('[{"id": "a", "values": [1], "text": "?"}]', "record.text: Cannot find field."),
        ("[" * 100_000, "records: {path} is not JSON"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        held(path)
    assert said.format(path=path) in caught.value.problems[0]
    assert len(caught.value.problems) == 1


def test_a_missing_or_binary_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"missing\.json cannot be read \(No such file or directory\)"):
        held(tmp_path / "missing.json")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="is not text in UTF-8"):
        held(binary)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"metric": "manhattan"}, "Invalid metric 'manhattan': it must be one of cosine, dotproduct, euclidean."),
        ({"dimension": 20_001}, "Invalid dimension 20001: it must be an integer from 1 to 20000."),
        ({"index": "No Name"}, "Invalid name 'No Name'"),
        ({"vectors_at_most": 0}, "vectors_at_most is 0; it must be an integer from 1 to 1000000."),
        ({"indx": "a"}, "setting 'indx' is unknown to this twin; known are index, dimension, metric, records,"),
        ({"api_key": 7}, "api_key is 7; it must be a string."),
    ],
)
def test_wrong_settings_are_told(more: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        Settings.read(more)
    assert said in caught.value.problems[0]


def test_more_records_than_the_memory_holds(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps(RECORDS))
    with pytest.raises(PlanError, match="2 of them are more than vectors_at_most=1"):
        held(path, vectors_at_most=1)


def test_impossible_settings_are_refused_in_the_plan() -> None:
    with pytest.raises(PlanError, match="'nap' is unknown here"):
        Pinecone(outcomes={"nap": 1})
    with pytest.raises(PlanError, match="records: they cannot be written as JSON"):
        Pinecone(records=[{"id": "a", "values": {1, 2}}])


async def test_the_process_begins_with_the_records_of_the_plan() -> None:
    service = Pinecone(records=RECORDS, query=Constant(0), api_key="key")
    async with service.running({}) as endpoint, aiohttp.ClientSession(headers={"Api-Key": "key"}) as session:
        ask = {"vector": [1, 0], "topK": 5, "includeMetadata": True}
        async with session.post(f"{endpoint.url}/query", json=ask) as response:
            answer = await response.json()
        (row,) = await service.witnessed(endpoint)
        settings = await service.behave(endpoint, {"query": 7})
    assert [(match["id"], match["score"]) for match in answer["matches"]] == [("a", 1.0)]
    assert answer["matches"][0]["metadata"] == {"text": "open from nine to five"}
    assert (row.kind, row.detail["op"], row.detail["matches"]) == ("vector", "query", 1)
    assert settings["query"] == {"distribution": "constant", "ms": 7}
    assert settings["served"] == {"ok": 1}


async def test_a_process_that_cannot_begin_says_why(tmp_path: Path) -> None:
    service = Pinecone(records=tmp_path / "none.json")
    with pytest.raises(ServiceError, match=r"vectors did not start: records: .*none\.json cannot be read"):
        async with service.running({}):
            pass


def test_rows_that_move_and_a_matrix_that_grows_and_shrinks_keep_every_record_whole() -> None:
    random = Random(11)
    space, kept = Namespace(3), dict[str, list[float]]()
    for _ in range(3000):
        key = f"v{random.randrange(200)}"
        if random.random() < (0.6 if len(kept) < 100 else 0.3):
            kept[key] = [float(random.randrange(-50, 50)) for _ in range(3)]
            space.put(measured(Record(id=key, values=np.array(kept[key], dtype=np.float32))))
        else:
            kept.pop(key, None)
            space.remove(key)
        if random.random() < 0.01:
            asked = np.array([random.gauss(0, 1) for _ in range(3)], dtype=np.float32)
            found = space.nearest(asked, metric="euclidean", top_k=5, holds=None, sparse={})
            want = sorted((float(((np.array(row) - asked) ** 2).sum()), name) for name, row in kept.items())[:5]
            assert [record.id for record, _ in found] == [name for _, name in want]
    assert {key: space.get(key).values.tolist() for key in space.rows} == kept  # type: ignore[union-attr]
    for key in list(kept):
        space.remove(key)
    assert space.cost_bytes == 0
