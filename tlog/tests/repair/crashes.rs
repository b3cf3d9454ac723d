//! The process ends, and the power is cut, at every storage operation of a repair: what is repaired in the end
//! is the same.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tlog::check::check;
use tlog::repair::{Plan, finish};
use tlog::storage::Simulated;
use tlog::{Log, OpenError, Storage};

use crate::site::{Site, options};

/// The files of the log on a simulated disk, under the same paths.
fn simulated(site: &Site) -> Simulated {
    let disk = Simulated::new(1);
    let mut files = vec![site.path().join("tlog.json")];
    for partition in 0..2 {
        let dir = site.path().join(format!("partitions/{partition:03}"));
        files.extend(std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
    }
    for path in files {
        let dir = path.parent().unwrap();
        disk.create_dir(dir).unwrap();
        let file = disk.create(&path).unwrap();
        file.write_at(&[IoSlice::new(&std::fs::read(&path).unwrap())], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(dir).unwrap();
    }
    disk
}

fn repair(disk: &Simulated, dir: &Path) -> bool {
    if !matches!(finish(disk, dir), Ok(None)) {
        return !disk.stopped();
    }
    Plan::make(disk, dir, None, &mut |_, _| {}, &mut |_| {})
        .is_ok_and(|plan| plan.is_empty() || plan.carry_out().is_ok())
}

/// All files that a start reads.
fn left(disk: &Simulated) -> BTreeMap<PathBuf, Vec<u8>> {
    let files =
        disk.files().into_iter().filter(|path| path.extension().is_none_or(|e| e != "tmp") && !path.ends_with("LOCK"));
    files.filter_map(|path| Some((path.clone(), disk.contents(&path)?))).collect()
}

#[tokio::test]
async fn a_repair_that_ends_anywhere_is_finished_by_the_next() {
    let site = Site::new(16).await;
    site.delete_rows();
    let segments = site.segments(0);
    site.overwrite(0, segments[0].0 + 500..segments[0].0 + 1500, |_| 0);
    site.overwrite(1, 700..701, |byte| byte ^ 1);
    std::fs::remove_file(&segments[2].1).unwrap();
    std::fs::write(site.path().join("tlog.json"), "").unwrap();
    let damaged = simulated(&site);
    let originals = left(&damaged);
    let whole = damaged.fork();
    let begun = whole.operations();
    assert!(repair(&whole, site.path()));
    let (operations, expected) = (whole.operations() - begun, left(&whole));
    assert!(check(&whole, site.path(), |_| {}).unwrap().is_clean());
    let mut unfinished = 0;
    for stop in 0..operations {
        for cut in [false, true] {
            let disk = damaged.fork();
            disk.stop_after(stop);
            assert!(!repair(&disk, site.path()), "stopped at {stop} of {operations}");
            if cut {
                disk.power_cut();
            } else {
                disk.resume();
            }
            let is_there =
                |original: &Vec<u8>| disk.files().iter().any(|path| disk.contents(path).as_ref() == Some(original));
            assert!(originals.values().all(is_there), "something is destroyed at {stop}");
            if let Err(OpenError::Unfinished { .. }) = check(&disk, site.path(), |_| {}) {
                unfinished += 1;
                let opened = Log::open_driven(site.path(), Arc::new(disk.clone()), Arc::new(disk.clone()), options());
                assert!(matches!(opened.map(drop), Err(OpenError::Unfinished { .. })));
            }
            assert!(repair(&disk, site.path()), "the second repair fails, stopped at {stop}");
            assert!(left(&disk) == expected, "stopped at {stop}");
            assert!(check(&disk, site.path(), |_| {}).unwrap().is_clean());
        }
    }
    assert!(unfinished > 10, "{unfinished}");
}
