"""The verdicts for CI servers: JUnit XML, one suite for the harness and one for the target.

FAIL is a <failure>. INCONCLUSIVE, NOT_RUN and INVALID are an <error>, never a <skipped>: a build that shows nothing of
its agent is not green. It keeps to the strictest schema in wide use, that of Jenkins's xUnit plugin (junit-10.xsd), by
which <testsuites> has no `skipped`, and a document that breaks it is refused whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TextIO
from xml.etree import ElementTree

from busyhour.gates import Judgement
from busyhour.model import Outcome, Run, Verdict

# What XML 1.0 has no characters for; a dying process may have said anything.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def report(run: Run, judgement: Judgement, out: TextIO) -> None:
    """Write one <testsuites> document to `out`."""
    root = ElementTree.Element("testsuites", _counts((*judgement.validity, *judgement.verdicts)))
    del root.attrib["skipped"]
    root.set("name", _clean(str(run.meta.get("plan", "busyhour"))))
    diagnoses = {diagnosis.gate: diagnosis.because for diagnosis in judgement.diagnoses}
    for name, verdicts in (("harness", judgement.validity), ("target", judgement.verdicts)):
        root.append(_suite(run, name, verdicts, diagnoses))
    ElementTree.indent(root)
    out.write('<?xml version="1.0" encoding="utf-8"?>\n')
    out.write(ElementTree.tostring(root, encoding="unicode"))
    out.write("\n")


def _suite(run: Run, name: str, verdicts: Sequence[Verdict], diagnoses: Mapping[str, str]) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", {"name": f"busyhour.{name}", **_counts(verdicts)})
    if started := run.meta.get("started_at"):
        suite.set("timestamp", _clean(str(started)))
    for verdict in verdicts:
        suite.append(_case(name, verdict, diagnoses.get(verdict.gate, "")))
    return suite


def _case(suite: str, verdict: Verdict, diagnosis: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=f"busyhour.{suite}", name=_clean(verdict.gate))
    said = _clean(verdict.because) + (" [UNPROVEN]" if verdict.proof == "unproven" else "")
    if verdict.outcome is Outcome.PASS:
        ElementTree.SubElement(case, "system-out").text = said
    else:
        tag = "failure" if verdict.outcome is Outcome.FAIL else "error"
        trouble = ElementTree.SubElement(case, tag, type=verdict.outcome.value, message=_clean(verdict.because))
        trouble.text = f"{said}\n{_clean(diagnosis)}" if diagnosis else said
    return case


def _counts(verdicts: Sequence[Verdict]) -> dict[str, str]:
    failures = sum(verdict.outcome is Outcome.FAIL for verdict in verdicts)
    passes = sum(verdict.outcome is Outcome.PASS for verdict in verdicts)
    return {
        "tests": str(len(verdicts)),
        "failures": str(failures),
        "errors": str(len(verdicts) - failures - passes),
        "skipped": "0",
    }


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
