//! `tlog check`: a data folder, verified while no broker has it open.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use consumers::{LedgerCheck, LedgerError, StoresCheck, StoresError};
use serde::Serialize;
use tempfile::TempDir;
use tlog::Disk;
use tlog::check::{Fault, FaultKind, Lost, Report, Whole};
use wire::Frame;

use super::error::CliError;
use super::{output, progress};

#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) folder: FolderArgs,
}

/// A data folder that is looked at offline.
#[derive(Args, Clone, Debug)]
pub(crate) struct FolderArgs {
    /// The data folder; no broker may have it open
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Where rows are made to be compared, as large as those of the data folder; removed again. The
    /// system's folder for such things if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) temp: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What consumers have to say when a data folder is looked at, and what they need for it.
pub(crate) struct Look {
    scratch: TempDir,
    stores: Option<StoresCheck>,
    ledger: Option<LedgerCheck>,
    failed: Option<CliError>,
    faults: Vec<Fault>,
}

/// Made by what, if it is wrong.
const REBUILT_BY: &str = "tlog repair and the next start";

impl Look {
    pub(crate) fn begin(args: &FolderArgs) -> Result<Look, CliError> {
        let partitions = tlog::check::partitions(&Disk, &args.data)?;
        let scratch = match &args.temp {
            Some(temp) => TempDir::new_in(temp),
            None => TempDir::new(),
        };
        let scratch = scratch.map_err(|source| CliError::io("a temporary folder", source))?;
        let mut faults = Vec::new();
        let mut closed = |kind, folder, reason: String| {
            faults.push(Fault::derived(kind, args.data.join(folder), 0, &reason, REBUILT_BY));
        };
        let stores = StoresCheck::open(&args.data, scratch.path(), partitions).unwrap_or_else(|error| {
            closed(FaultKind::Stores, "stores", error.to_string());
            None
        });
        let ledger = LedgerCheck::open(&args.data, scratch.path(), partitions).unwrap_or_else(|error| {
            closed(FaultKind::Ledger, "ledger", error.to_string());
            None
        });
        Ok(Look { scratch, stores, ledger, failed: None, faults })
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    pub(crate) fn frame(&mut self, partition: u16, frame: &Frame) {
        if self.failed.is_some() {
            return;
        }
        let mut take = || {
            if let Some(stores) = &mut self.stores {
                stores.frame(partition, frame)?;
            }
            if let Some(ledger) = &mut self.ledger {
                ledger.frame(partition, frame)?;
            }
            Ok(())
        };
        self.failed = take().err();
    }

    /// What is wrong with what they keep.
    pub(crate) fn end(mut self, wholes: &[Whole]) -> Result<Vec<Fault>, CliError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let unreadable =
            |kind, folder, reason: String| vec![Fault::derived(kind, PathBuf::from(folder), 0, &reason, REBUILT_BY)];
        if let Some(stores) = self.stores {
            let failed = |error: StoresError| unreadable(FaultKind::Stores, "stores", error.to_string());
            self.faults.extend(stores.finish(wholes).unwrap_or_else(failed));
        }
        if let Some(ledger) = self.ledger {
            let failed = |error: LedgerError| unreadable(FaultKind::Ledger, "ledger", error.to_string());
            self.faults.extend(ledger.finish(wholes).unwrap_or_else(failed));
        }
        Ok(self.faults)
    }
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), CliError> {
    let bar = progress::unbounded();
    let mut look = Look::begin(&args.folder)?;
    let scratch = look.scratch();
    let mut witness = |partition: u16, frame: &Frame| look.frame(partition, frame);
    let mut checked = 0;
    let mut told = |bytes| {
        checked += bytes;
        bar.set_message(format!("{} checked", output::bytes(checked)));
        bar.tick();
    };
    let data = &args.folder.data;
    let mut report = tlog::check::check_all(&Disk, data, Some(&scratch), &mut witness, &mut told)?;
    look.end(&report.partitions)?.into_iter().for_each(|fault| report.derived(fault));
    bar.finish_and_clear();
    let text = if args.folder.json { output::json_line(&Checked::of(&report))? } else { text(&report, data) };
    output::print(text.as_bytes())?;
    match (report.faults.len(), report.derived_faults.len()) {
        (0, 0) => Ok(()),
        (0, derived) => Err(CliError::Derived { faults: derived + report.more_derived_faults as usize }),
        (faults, _) => Err(CliError::Damaged { faults }),
    }
}

/// The report, to be read. Writing to a String does not fail.
pub(crate) fn text(report: &Report, data: &Path) -> String {
    let Report { segments, frames, records, namespaces, bytes, torn_bytes, .. } = report;
    let size = output::bytes(*bytes);
    let mut text =
        format!("{records} records in {frames} frames, {segments} segments, {size}; {namespaces} namespaces\n");
    if *torn_bytes > 0 {
        let _ = writeln!(text, "{torn_bytes} bytes behind the end were never acknowledged; the next start cuts them");
    }
    for path in &report.unfinished {
        let _ = writeln!(text, "{} was being made when a process ended; the next start removes it", path.display());
    }
    for lost in &report.marked {
        let _ = writeln!(text, "marked as lost: {lost}");
    }
    if report.unknown_bytes > 0 {
        let bytes = report.unknown_bytes;
        let _ = writeln!(text, "marked as lost: {bytes} bytes, of which nothing else is known or needs to be");
    }
    for fault in &report.derived_faults {
        let Fault { file, key, position, reason, rebuilt_by, .. } = fault;
        let place = key.as_ref().map_or(format!("position {position}"), |key| format!("row {key}"));
        let by = rebuilt_by.unwrap_or("tlog repair");
        let _ = writeln!(text, "to be made again: {} ({place}): {reason}; by {by}", file.display());
    }
    if report.more_derived_faults > 0 {
        let _ = writeln!(text, "to be made again: {} more", report.more_derived_faults);
    }
    for Fault { file, position, end, reason, lost, .. } in &report.faults {
        let file = file.display();
        let _ = writeln!(text, "DAMAGED: {file} at position {position}: {reason}; {} bytes are lost", end - position);
        for lost in lost {
            let _ = writeln!(text, "  lost: {lost}");
        }
        if lost.is_empty() {
            let _ = writeln!(text, "  lost: what can't be told");
        }
    }
    if !report.is_clean() {
        let _ = writeln!(text, "tlog repair --data {} mends what can be, and marks what is lost", data.display());
    }
    text
}

#[derive(Serialize)]
pub(crate) struct Checked<'a> {
    segments: u64,
    frames: u64,
    records: u64,
    namespaces: u64,
    bytes: u64,
    torn_bytes: u64,
    faults: Vec<CheckedFault<'a>>,
    derived_faults: Vec<CheckedFault<'a>>,
    more_derived_faults: u64,
    marked: Vec<CheckedLost<'a>>,
    unknown_bytes: u64,
    unfinished: Vec<String>,
}

#[derive(Serialize)]
struct CheckedFault<'a> {
    kind: &'static str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    position: u64,
    end: u64,
    reason: &'a str,
    lost: Vec<CheckedLost<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rebuilt_by: Option<&'static str>,
}

/// Records that are lost, as JSON has them.
#[derive(Serialize)]
pub(crate) struct CheckedLost<'a> {
    partition: u16,
    namespace_id: u32,
    namespace: Option<&'a str>,
    generation: u32,
    from: u64,
    to: u64,
}

impl<'a> Checked<'a> {
    pub(crate) fn of(report: &'a Report) -> Checked<'a> {
        Checked {
            segments: report.segments,
            frames: report.frames,
            records: report.records,
            namespaces: report.namespaces,
            bytes: report.bytes,
            torn_bytes: report.torn_bytes,
            faults: report.faults.iter().map(CheckedFault::from).collect(),
            derived_faults: report.derived_faults.iter().map(CheckedFault::from).collect(),
            more_derived_faults: report.more_derived_faults,
            marked: report.marked.iter().map(CheckedLost::from).collect(),
            unknown_bytes: report.unknown_bytes,
            unfinished: report.unfinished.iter().map(|path| path.display().to_string()).collect(),
        }
    }
}

impl<'a> From<&'a Fault> for CheckedFault<'a> {
    fn from(fault: &'a Fault) -> CheckedFault<'a> {
        CheckedFault {
            kind: fault.kind.as_str(),
            file: fault.file.display().to_string(),
            key: fault.key.as_deref(),
            position: fault.position,
            end: fault.end,
            reason: &fault.reason,
            lost: fault.lost.iter().map(CheckedLost::from).collect(),
            rebuilt_by: fault.rebuilt_by,
        }
    }
}

impl<'a> From<&'a Lost> for CheckedLost<'a> {
    fn from(lost: &'a Lost) -> CheckedLost<'a> {
        CheckedLost {
            partition: lost.partition,
            namespace_id: lost.namespace.get(),
            namespace: lost.name.as_deref(),
            generation: lost.generation,
            from: lost.from,
            to: lost.to,
        }
    }
}
