"""The comparison as JUnit XML, which CI systems show as tests."""

import re
from xml.etree import ElementTree as ET

from petl_bench.comparison.verdicts import UNPAIRED, Outcome
from petl_bench.comparison.words import headline, message

# What XML 1.0 has no way to write, section 2.2.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def document(outcome: Outcome) -> str:
    """One test a case; those that fail carry what moved."""
    failing = {id(case) for case in outcome.failures}
    kinds = [
        "failure" if id(case) in failing else "skipped" if case.verdict in UNPAIRED else None
        for case in outcome.cases
    ]
    suite = ET.Element(
        "testsuite",
        name="petl-bench compare",
        tests=str(len(outcome.cases)),
        failures=str(kinds.count("failure")),
        errors="0",
        skipped=str(kinds.count("skipped")),
    )
    for case, kind in zip(outcome.cases, kinds, strict=True):
        test = ET.SubElement(
            suite, "testcase", classname=_clean(case.setting), name=_clean(case.label), time="0"
        )
        if kind is None:
            continue
        note = ET.SubElement(test, kind, message=_clean(headline(case)))
        if kind == "failure":
            note.set("type", case.verdict.value)
            note.text = _clean(message(case))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
