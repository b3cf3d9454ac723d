//! `tlog rebuild`: all of a namespace, with proof.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sdk::{Event, Frame, Lost, Proof};
use serde::Serialize;

use super::connect::Broker;
use super::error::CliError;
use super::{output, progress};

/// How much is written at once.
const WRITE_BYTES: usize = 1 << 20;

#[derive(Args, Clone, Debug)]
pub(crate) struct RebuildArgs {
    #[command(flatten)]
    broker: Broker,
    /// The namespace
    namespace: String,
    /// Where to write what is rebuilt; - for stdout. The file appears once all is proved. Without
    /// this there is only the proof
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Frames, requires = "out")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// The log's frames and a trailer, which can be proved again
    Frames,
    /// A record in JSON a line; where records were lost, a line that says so
    Ndjson,
}

#[derive(Serialize)]
struct Proved<'a> {
    namespace: &'a str,
    records: u64,
    frames: u64,
    bytes: u64,
    next_offset: u64,
    chain: String,
    /// How many records were lost before; left out, as is what follows, where none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_records: Option<u64>,
    /// Which, if they are not in very many places: the first then.
    #[serde(skip_serializing_if = "<[Lost]>::is_empty")]
    lost: &'a [Lost],
}

pub(crate) async fn run(args: RebuildArgs) -> Result<(), CliError> {
    let info = args.broker.client()?.namespace(&args.namespace)?.info().await?;
    let mut rebuild = args.broker.patient_client()?.namespace(&args.namespace)?.rebuild().with_losses();
    let mut out = args.out.as_deref().map(|path| Out::create(path, args.format)).transpose()?;
    let bar = progress::records(info.next_offset);
    while let Some(frame) = rebuild.next().await? {
        if let Some(out) = &mut out {
            out.frame(&frame)?;
        }
        bar.set_position(frame.next_offset());
    }
    bar.finish_and_clear();
    // There is nothing more, so there is a proof.
    let proof = rebuild.finish().await?;
    let to_stdout = out.as_ref().is_some_and(|out| out.partial.is_none());
    if let Some(out) = out {
        out.finish(&proof)?;
    }
    if !proof.lost.is_empty() {
        eprintln!("{}", lost(&proof));
    }
    let text = if args.broker.json { json(&info.name, &proof)? } else { text(&info.name, &proof) };
    if to_stdout {
        eprint!("{text}");
        return Ok(());
    }
    output::print(text.as_bytes())
}

fn lost(proof: &Proof) -> String {
    let were = if proof.lost.records() == 1 { "was" } else { "were" };
    format!("tlog: {} {were} lost before: {}", output::count(proof.lost.records(), "record"), proof.lost)
}

fn text(namespace: &str, proof: &Proof) -> String {
    let Proof { records, frames, bytes, chain, .. } = proof;
    let (records, frames) = (output::count(*records, "record"), output::count(*frames, "frame"));
    format!("{namespace}: {records} in {frames}, {}, proved\nchain {chain}\n", output::bytes(*bytes))
}

fn json(namespace: &str, proof: &Proof) -> Result<String, CliError> {
    let Proof { records, frames, bytes, next_offset, chain, lost, .. } = proof;
    output::json_line(&Proved {
        namespace,
        records: *records,
        frames: *frames,
        bytes: *bytes,
        next_offset: *next_offset,
        chain: chain.to_string(),
        lost_records: (!lost.is_empty()).then(|| lost.records()),
        lost: lost.named(),
    })
}

/// Where the rebuilt goes.
struct Out {
    format: Format,
    to: Box<dyn Write + Send>,
    what: String,
    /// For a file: it is written under another name, and renamed once all is proved.
    partial: Option<Partial>,
}

struct Partial {
    file: File,
    written_as: PathBuf,
    wanted_as: PathBuf,
}

impl Out {
    fn create(path: &Path, format: Format) -> Result<Out, CliError> {
        if path.as_os_str() == "-" {
            let to = Box::new(BufWriter::with_capacity(WRITE_BYTES, io::stdout()));
            return Ok(Out { format, to, what: "stdout".into(), partial: None });
        }
        let mut written_as = path.as_os_str().to_owned();
        written_as.push(".part");
        let written_as = PathBuf::from(written_as);
        let what = written_as.display().to_string();
        let failed = |source| CliError::io(&what, source);
        let file = File::create(&written_as).map_err(failed)?;
        let to = Box::new(BufWriter::with_capacity(WRITE_BYTES, file.try_clone().map_err(failed)?));
        Ok(Out { format, to, what, partial: Some(Partial { file, written_as, wanted_as: path.to_owned() }) })
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), CliError> {
        match self.format {
            Format::Frames => self.write(frame.bytes()),
            Format::Ndjson if frame.is_loss() => {
                let lost = Lost { from: frame.base_offset(), to: frame.next_offset() };
                self.write(Event::Reset(lost.reset()).json_line()?.as_bytes())?;
                self.write(b"\n")
            }
            Format::Ndjson => {
                for record in sdk::records(frame) {
                    self.write(record.json_line()?.as_bytes())?;
                    self.write(b"\n")?;
                }
                Ok(())
            }
        }
    }

    fn finish(mut self, proof: &Proof) -> Result<(), CliError> {
        if self.format == Format::Frames {
            self.write(&proof.trailer().encode())?;
        }
        self.to.flush().map_err(|source| CliError::io(&self.what, source))?;
        let Some(Partial { file, written_as, wanted_as }) = self.partial else { return Ok(()) };
        let named = file.sync_all().and_then(|()| std::fs::rename(&written_as, &wanted_as));
        named.map_err(|source| CliError::io(wanted_as.display().to_string(), source))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.to.write_all(bytes).map_err(|source| CliError::io(&self.what, source))
    }
}
