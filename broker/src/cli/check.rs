//! `tlog check`: the whole log of a data folder, verified while no broker has it open.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tlog::Disk;
use tlog::check::{Fault, Report};

use super::error::CliError;
use super::{output, progress};

#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    /// The data folder; no broker may have it open
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Checked<'a> {
    segments: u64,
    frames: u64,
    records: u64,
    namespaces: u64,
    bytes: u64,
    torn_bytes: u64,
    faults: Vec<CheckedFault<'a>>,
    derived_faults: Vec<CheckedFault<'a>>,
}

#[derive(Serialize)]
struct CheckedFault<'a> {
    file: String,
    position: u64,
    reason: &'a str,
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), CliError> {
    let bar = progress::unbounded();
    let mut checked = 0;
    let report = tlog::check::check(&Disk, &args.data, |bytes| {
        checked += bytes;
        bar.set_message(format!("{} checked", output::bytes(checked)));
        bar.tick();
    })?;
    bar.finish_and_clear();
    let text = if args.json { json(&report)? } else { text(&report) };
    output::print(text.as_bytes())?;
    match report.faults.len() {
        0 => Ok(()),
        faults => Err(CliError::Damaged { faults }),
    }
}

fn text(report: &Report) -> String {
    let Report { segments, frames, records, namespaces, bytes, torn_bytes, .. } = report;
    let size = output::bytes(*bytes);
    let mut text =
        format!("{records} records in {frames} frames, {segments} segments, {size}; {namespaces} namespaces\n");
    if *torn_bytes > 0 {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{torn_bytes} bytes behind the end were never acknowledged; the next start cuts them");
    }
    for Fault { file, position, reason } in &report.derived_faults {
        let _ = writeln!(text, "to be made again: {} (position {position}): {reason}", file.display());
    }
    for Fault { file, position, reason } in &report.faults {
        let _ = writeln!(text, "DAMAGED: {} at position {position}: {reason}", file.display());
    }
    text
}

fn json(report: &Report) -> Result<String, CliError> {
    output::json_line(&Checked {
        segments: report.segments,
        frames: report.frames,
        records: report.records,
        namespaces: report.namespaces,
        bytes: report.bytes,
        torn_bytes: report.torn_bytes,
        faults: report.faults.iter().map(CheckedFault::from).collect(),
        derived_faults: report.derived_faults.iter().map(CheckedFault::from).collect(),
    })
}

impl<'a> From<&'a Fault> for CheckedFault<'a> {
    fn from(fault: &'a Fault) -> CheckedFault<'a> {
        CheckedFault { file: fault.file.display().to_string(), position: fault.position, reason: &fault.reason }
    }
}
