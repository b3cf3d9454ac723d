//! `tlog repair`: a damaged data folder made whole, while no broker has it open.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use serde::Serialize;
use tlog::Disk;
use tlog::check::FaultKind;
use tlog::repair::{self, Plan, Repaired};
use wire::Frame;

use super::check::{Checked, CheckedLost, FolderArgs, Look};
use super::error::CliError;
use super::{check, output, progress};

#[derive(Args, Clone, Debug)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Said<'a> {
    /// What was found; not where a repair that was begun is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<Checked<'a>>,
    /// What is replaced, by paths in the data folder.
    replaced: Vec<String>,
    lost: Vec<CheckedLost<'a>>,
    /// Where what was replaced is now; nothing where nothing was done.
    aside: Option<String>,
    done: bool,
}

pub(crate) fn run(args: &RepairArgs) -> Result<(), CliError> {
    let data = &args.folder.data;
    if repair::is_unfinished(&Disk, data)? {
        return finish(args, data);
    }
    let bar = progress::unbounded();
    let mut look = Look::begin(&args.folder)?;
    let scratch = look.scratch();
    let mut witness = |partition: u16, frame: &Frame| look.frame(partition, frame);
    let mut told = |_| bar.tick();
    let mut plan = Plan::make(&Disk, data, Some(&scratch), &mut witness, &mut told)?;
    let derived = look.end(&plan.report().partitions)?;
    for (kind, folder) in [(FaultKind::Stores, "stores"), (FaultKind::Ledger, "ledger")] {
        // They may hold what the log no longer has.
        if plan.loses() || derived.iter().any(|fault| fault.kind == kind) {
            plan.set_aside(folder);
        }
    }
    let mut report = plan.report().clone();
    derived.into_iter().for_each(|fault| report.derived(fault));
    let (replaced, lost) = (plan.replaced(), plan.lost().to_vec());
    let repaired = if plan.is_empty() || args.dry_run { None } else { Some(plan.carry_out()?) };
    bar.finish_and_clear();
    let said = if args.folder.json {
        output::json_line(&Said {
            found: Some(Checked::of(&report)),
            replaced,
            lost: lost.iter().map(CheckedLost::from).collect(),
            aside: repaired.as_ref().map(|repaired| repaired.aside.display().to_string()),
            done: repaired.is_some(),
        })?
    } else if replaced.is_empty() {
        "nothing is to be repaired\n".to_owned()
    } else {
        let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
        check::text(&report, data) + &text(&replaced, &lost, repaired.as_ref())
    };
    output::print(said.as_bytes())
}

/// Finishes a repair that was begun.
fn finish(args: &RepairArgs, data: &Path) -> Result<(), CliError> {
    let repaired = if args.dry_run { None } else { repair::finish(&Disk, data)? };
    let (replaced, lost) = match &repaired {
        Some(repaired) => (repaired.moved.clone(), repaired.lost.clone()),
        None => (Vec::new(), Vec::new()),
    };
    let said = if args.folder.json {
        let aside = repaired.as_ref().map(|repaired| repaired.aside.display().to_string());
        output::json_line(&Said { found: None, replaced, lost: Vec::new(), aside, done: repaired.is_some() })?
    } else if args.dry_run {
        "a repair was begun and not finished: it would be finished\n".to_owned()
    } else {
        "a repair was begun and not finished: it is now\n".to_owned() + &text(&replaced, &lost, repaired.as_ref())
    };
    output::print(said.as_bytes())
}

/// What was or would be done. Writing to a String does not fail.
fn text(replaced: &[String], lost: &[String], repaired: Option<&Repaired>) -> String {
    let mut text = String::new();
    let would_be = if repaired.is_some() { "" } else { "would be " };
    for path in replaced {
        let _ = writeln!(text, "{would_be}made again: {path}");
    }
    for lost in lost {
        let _ = writeln!(text, "LOST, and {would_be}marked so: {lost}");
    }
    match repaired {
        Some(Repaired { aside, .. }) => {
            let _ = writeln!(text, "what was replaced is in {}", aside.display());
            let whole =
                if lost.is_empty() { "nothing is lost" } else { "what is lost is marked, and readers are told" };
            let _ = writeln!(text, "the folder is whole: {whole}");
        }
        None => {
            let _ = writeln!(text, "nothing was done; what is replaced would be kept in aside/");
        }
    }
    text
}
