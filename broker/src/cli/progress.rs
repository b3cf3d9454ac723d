//! Progress of long work: a bar on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws a second: what is drawn more often is only work.
const REDRAWS: u8 = 10;

/// A bar over `total` records.
pub(crate) fn records(total: u64) -> ProgressBar {
    bar(Some(total), "{elapsed_precise} {wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left")
}

/// A bar over `total` bytes, with a message beside it.
pub(crate) fn bytes(total: u64) -> ProgressBar {
    bar(Some(total), "{elapsed_precise} {wide_bar} {binary_bytes}/{binary_total_bytes}, {msg}, {eta} left")
}

/// A message, where nobody knows how much there is to do.
pub(crate) fn unbounded() -> ProgressBar {
    bar(None, "{elapsed_precise} {spinner} {msg}")
}

fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    // Nothing is drawn where stderr is no terminal.
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(REDRAWS));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
