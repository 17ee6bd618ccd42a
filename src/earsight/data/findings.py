"""What the data set doctor has to say, as data: findings and the report that holds them.

Comes in: findings of `earsight.data.checks`. Goes out: lines to read, or plain lists and dicts for JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from earsight.data.datasets import first
from earsight.errors import counted

_LINES_OF_A_KIND = 20

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: its severity, the clips it was found in, and a line that says what it means."""

    kind: str
    severity: Severity
    clips: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Report:
    """What the doctor found; ``clips`` is how many were looked at, ``counts`` findings' clips by kind."""

    clips: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Clips concerned, by kind."""
        totals: Counter[str] = Counter()
        for finding in self.findings:
            totals[finding.kind] += len(finding.clips)
        return dict(totals)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that stop training."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def lines(self) -> list[str]:
        """The same as lines to read: each finding with its first clips, at most 20 of a kind, and a last line."""
        out = []
        shown: Counter[str] = Counter()
        for finding in self.findings:
            shown[finding.kind] += 1
            if shown[finding.kind] <= _LINES_OF_A_KIND:
                where = f" ({first(list(finding.clips))})" if finding.clips else ""
                out.append(f"{finding.severity}: {finding.kind}: {finding.text}{where}")
        for kind, count in shown.items():
            if count > _LINES_OF_A_KIND:
                out.append(f"... and {count - _LINES_OF_A_KIND} more findings of kind {kind}; --json lists them all")
        warnings = len(self.findings) - len(self.errors)
        found = f"{counted(len(self.errors), 'error')}, {counted(warnings, 'warning')}"
        out.append(f"{counted(self.clips, 'clip')} checked: {found}")
        return out

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists and dicts, for JSON."""
        findings = [{**asdict(finding), "clips": list(finding.clips)} for finding in self.findings]
        return {"clips": self.clips, "errors": len(self.errors), "counts": self.counts, "findings": findings}
