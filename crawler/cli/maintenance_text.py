"""The results of `verify`, its repair, and `gather`."""

import shlex
from pathlib import Path

import msgspec

from crawler.cli.text import MB, count
from crawler.cli.worker_text import name_store
from crawler.maintenance.gather import GatherReport
from crawler.maintenance.repair import RepairReport
from crawler.maintenance.verify import VerifyReport
from crawler.store.files import DAMAGED
from crawler.text import printable


def describe_audit(found: VerifyReport) -> str:
    """Return the result of `verify`."""
    elsewhere, other = sum(store.pictures for store in found.elsewhere), count(found.other, "other file")
    lines = [
        f"{count(found.whole, 'file')} intact, {found.missing} missing, {found.damaged} damaged,"
        f" {found.foreign} foreign, {elsewhere} in other stores{f', {found.spare} spare' if found.spare else ''}"
        f"{f', {found.past} from before a refresh' if found.past else ''}"
        f"{f', {found.early} not recorded yet' if found.early else ''}"
        f"{f', {other}' if found.other else ''}"
    ]
    lines += [f"  {store.pictures} in {name_store(store)}" for store in found.elsewhere]
    lines += [f"  {example}" for example in found.examples]
    unnamed = found.missing + found.damaged + found.foreign - len(found.examples)
    lines += [f"  and {unnamed} more: --json lists them all"] if unnamed > 0 else []
    number = sum(fault.number for fault in found.faults)
    verdict = count(number, "inconsistency", "inconsistencies") if number else "records are consistent"
    if found.balance is not None and found.balance.images:
        states = ("waiting", "success", "duplicate", "failed")
        counts = ", ".join(f"{found.balance.images.get(state, 0)} {state}" for state in states)
        running = ", the crawl is running" if found.balance.is_running else ""
        lines.append(f"{count(sum(found.balance.images.values()), 'image URL')}: {counts}{running}; {verdict}")
    elif number or found.balance is not None:
        lines.append(verdict)
    for fault in found.faults:
        lines += [f"  {fault.rule}: {example}" for example in fault.examples]
        if fault.number > len(fault.examples):
            lines.append(f"  {fault.rule}: {fault.number - len(fault.examples)} more: --json lists them all")
    return "\n".join(map(printable, lines))


def finding_json(what: str, where: str) -> str:
    """Return a finding of `verify` as a JSON object; bytes of a file name that are not text are escaped."""
    finding = {"finding": what, "where": where.encode(errors="backslashreplace").decode()}
    return printable(msgspec.json.encode(finding).decode())


def describe_repair(done: RepairReport, directory: Path) -> str:
    """Return the result of `verify --repair` and the next command."""
    parts = [
        f"{count(done.put_back, 'image URL')} of {count(done.lost, 'picture')} queued again" if done.lost else "",
        f"{count(done.healed, 'picture')} copied from another store" if done.healed else "",
        f"{count(done.moved, 'damaged file')} moved to {DAMAGED}/" if done.moved else "",
        f"{count(done.removed, 'unfinished file')} removed" if done.removed else "",
    ]
    lines = [f"Repaired: {'; '.join(part for part in parts if part) or 'manifest and results match the records'}."]
    if done.put_back:
        lines.append(f"Fetch them with:  crawler retry {shlex.quote(str(directory))}")
    return "\n".join(lines)


def describe_gathered(found: GatherReport) -> str:
    """Return the result of `gather`."""
    lines = [f"{count(found.pictures, 'picture')} copied here ({found.bytes / MB:.1f} MB), {found.missing} not found"]
    return "\n".join(lines + [f"  {store.pictures} still in {name_store(store)}" for store in found.elsewhere])
