//! The broker's system calls, as strace shows them, and failures that strace puts in their place.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Broker;

/// A strace that is attached to a broker. The broker goes on alone when this is dropped.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    folder: tempfile::TempDir,
}

/// A system call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// The file descriptor that is its first argument.
    pub fd: u32,
    /// The line of the trace where it begins.
    pub begin: usize,
    /// The line where it returns.
    pub end: usize,
    /// Its buffers, each as far as strace shows it.
    pub buffers: Vec<Vec<u8>>,
    /// Whether it returned without an error.
    pub succeeded: bool,
}

/// Whether strace is there and may trace a process.
pub fn may_trace() -> bool {
    let traced = Command::new("strace").args(["-e", "trace=none", "true"]).output();
    traced.is_ok_and(|output| output.status.success())
}

impl Strace {
    /// Traces these calls, their buffers up to 1 KiB each.
    pub fn trace(broker: &Broker, calls: &str) -> Option<Strace> {
        Strace::attach(broker, &["-xx", "-s", "1024", "-e", &format!("trace={calls}")])
    }

    /// Lets these calls fail with an error, such as `EROFS`, as long as it is attached.
    pub fn fail(broker: &Broker, calls: &str, error: &str) -> Option<Strace> {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error={error}"));
        Strace::attach(broker, &["-e", &trace, "-e", &inject])
    }

    /// A command that runs another one, and kills it when one of its threads is about to make its `nth`
    /// call of these, on these paths where some are given. The call itself is not made.
    pub fn kill_at(command: &Command, calls: &str, paths: &[PathBuf], nth: u32, output: &Path) -> Command {
        let mut strace = Command::new("strace");
        // The tracer stands aside: the broker is the test's own child, and its status the broker's.
        strace.args(["--daemonize", "--follow-forks", "--output"]).arg(output);
        strace.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:signal=KILL:when={nth}")]);
        for path in paths {
            strace.arg("--trace-path").arg(path);
        }
        strace.arg(command.get_program()).args(command.get_args());
        strace
    }

    fn attach(broker: &Broker, arguments: &[&str]) -> Option<Strace> {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("strace")
            .args(["-f", "-p", &broker.pid().to_string(), "-o"])
            .arg(Strace::output(&folder))
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let attached = lines.any(|line| line.contains("attached"));
        // It goes on talking of threads that come and go, and must not block on it.
        std::thread::spawn(move || lines.for_each(drop));
        let strace = Strace { child, folder };
        attached.then_some(strace)
    }

    fn output(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("trace")
    }

    /// Detaches, and answers the calls in the order in which they began.
    pub fn finish(mut self) -> Vec<Call> {
        self.detach();
        parse(&fs::read_to_string(Strace::output(&self.folder)).unwrap())
    }

    fn detach(&mut self) {
        // Once it has been waited for, its id may be another's.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.detach();
    }
}

fn parse(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<&str, Call> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let succeeded = rest.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with(['-', '?']));
        if rest.starts_with("<... ") {
            if let Some(call) = unfinished.remove(thread) {
                calls.push(Call { end: number, succeeded, ..call });
            }
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        let Some(fd) = arguments.split([',', ')', ' ']).next().and_then(|fd| fd.parse().ok()) else { continue };
        let call = Call {
            name: name.to_owned(),
            fd,
            begin: number,
            end: number,
            buffers: arguments.split('"').skip(1).step_by(2).map(unhex).collect(),
            succeeded,
        };
        if rest.ends_with("<unfinished ...>") {
            unfinished.insert(thread, call);
        } else {
            calls.push(call);
        }
    }
    calls.sort_by_key(|call| call.begin);
    calls
}

/// Bytes from `\x54\x4c…`.
fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").filter_map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}
