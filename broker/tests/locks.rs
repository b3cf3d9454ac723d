//! Locks with the real binary: killed while they are held, clients that die, answers that are lost, the sdk and the
//! command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sdk::{Backoff, Client, Code, Error, HeldLock, Lock};
use support::{Broker, Dice, PATIENCE, eventually, own_address};

const TTL: Duration = Duration::from_millis(1500);

fn lock(address: &str, name: &str) -> Lock {
    Client::builder(&format!("http://{address}")).backoff(Backoff::default()).build().unwrap().lock(name).unwrap()
}

async fn ask(lock: &Lock, owner: &str) -> Result<HeldLock, Error> {
    lock.acquire().owner(owner).ttl(TTL).wait(PATIENCE).ask().await
}

/// Calls the interface as a client without a library would. Status and answer.
async fn post(broker: &Broker, path: &str, body: serde_json::Value) -> (u16, serde_json::Value) {
    let request = support::client().post(broker.url(&format!("/v1/locks/{path}"))).json(&body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

fn restart(address: &str, folder: &Path) -> Broker {
    Broker::try_start(Broker::command_at(address, folder, &[])).unwrap()
}

#[tokio::test]
async fn a_lock_outlives_a_broker_that_is_killed_for_its_whole_time() {
    let folder = tempfile::tempdir().unwrap();
    let address = own_address();
    let broker = restart(&address, folder.path());
    let held = serde_json::json!({ "owner": "anna", "ttl_ms": TTL.as_millis() as u64 });
    let (status, held) = post(&broker, "l", held).await;
    assert_eq!(status, 200, "{held}");
    let granted = Instant::now();
    let printer = lock(&address, "l");
    let ben = tokio::spawn({
        let printer = printer.clone();
        async move { (ask(&printer, "ben").await.unwrap(), Instant::now()) }
    });
    eventually("ben waits", async || printer.state().await.unwrap().is_some_and(|state| state.waiting == 1)).await;
    broker.kill();
    // Its time would be nearly over by now.
    tokio::time::sleep_until((granted + TTL * 3 / 4).into()).await;
    let started = Instant::now();
    let broker = restart(&address, folder.path());
    let still = printer.state().await.unwrap().unwrap();
    assert_eq!((&*still.owner, Some(still.token)), ("anna", held["token"].as_u64()));
    let (ben, got) = ben.await.unwrap();
    assert!(got - started >= TTL, "ben has it after {:?}, {TTL:?} were anna's", got - started);
    assert!(ben.token() > still.token);
    let (status, refused) = post(&broker, "l/extend", serde_json::json!({ "token": still.token })).await;
    assert_eq!((status, &refused["type"]), (409, &"urn:tlog:error:lock-lost".into()));
    ben.release().await.unwrap();
}

#[tokio::test]
async fn a_holder_goes_on_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let address = own_address();
    let mut broker = restart(&address, folder.path());
    let printer = lock(&address, "l");
    let held = printer.acquire().owner("anna").ttl(Duration::from_secs(20)).ask().await.unwrap();
    for _ in 0..3 {
        broker.kill();
        broker = restart(&address, folder.path());
        let refused = printer.acquire().owner("ben").ask().await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::LockHeld));
        assert_eq!(refused.problem().unwrap().owner.as_deref(), Some("anna"));
        // An answer that was lost: the owner asks again, and has what it had.
        let (status, again) = post(&broker, "l", serde_json::json!({ "owner": "anna", "ttl_ms": 20_000 })).await;
        assert_eq!((status, again["token"].as_u64()), (200, Some(held.token())), "{again}");
    }
    assert!(!held.is_lost());
    let before = held.token();
    held.release().await.unwrap();
    let next = printer.acquire().owner("ben").ask().await.unwrap();
    assert!(next.token() > before);
    drop(broker);
}

#[tokio::test]
async fn a_lock_lapses_and_passes_on() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let (status, dead) = post(&broker, "l", serde_json::json!({ "owner": "dead", "ttl_ms": 300 })).await;
    let granted = Instant::now();
    assert_eq!(status, 200, "{dead}");
    let printer = lock(&broker.address().to_string(), "l");
    let held = ask(&printer, "next").await.unwrap();
    assert!(granted.elapsed() >= Duration::from_millis(250), "{:?}", granted.elapsed());
    assert!(Some(held.token()) > dead["token"].as_u64());
    for call in ["l/extend", "l/release"] {
        let (status, refused) = post(&broker, call, serde_json::json!({ "token": dead["token"] })).await;
        assert_eq!((status, &refused["type"]), (409, &"urn:tlog:error:lock-lost".into()));
    }
    // Kept alive it does not lapse, however long it is held.
    let began = Instant::now();
    let refused = printer.acquire().owner("late").wait(TTL * 2).ask().await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::LockHeld));
    assert!(began.elapsed() >= TTL * 2 && !held.is_lost());
    // Dropped it is given back.
    drop(held);
    let again = ask(&printer, "again").await.unwrap();
    // Where nobody hears of it, it is lost: in time, as the broker will give it to others.
    let extended = Instant::now();
    drop(broker);
    again.lost().await;
    assert!(extended.elapsed() <= TTL + Duration::from_secs(5));
}

/// What only one may be in, and that knows an old token.
#[derive(Default)]
struct Guarded {
    inside: AtomicUsize,
    highest: AtomicI64,
    turns: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_while_the_broker_is_killed_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let address = own_address();
    let mut broker = restart(&address, folder.path());
    let guarded: Arc<[Guarded; 3]> = Arc::default();
    guarded.iter().for_each(|guarded| guarded.highest.store(-1, Ordering::SeqCst));
    let (stop, faults) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let mut clients = Vec::new();
    for client in 0..8_u64 {
        let (guarded, stop, faults, address) =
            (Arc::clone(&guarded), Arc::clone(&stop), Arc::clone(&faults), address.clone());
        clients.push(tokio::spawn(async move {
            let mut dice = Dice::new(client);
            while stop.load(Ordering::SeqCst) == 0 {
                let at = dice.below(3) as usize;
                let lock = lock(&address, &format!("l{at}"));
                // A name for each time: it is never the holder already.
                let asked = lock.acquire().ttl(Duration::from_secs(2)).wait(PATIENCE).ask();
                let held = match asked.await {
                    Ok(held) => held,
                    Err(error) => {
                        faults.lock().unwrap().push(error.to_string());
                        return;
                    }
                };
                let guarded = &guarded[at];
                if guarded.inside.fetch_add(1, Ordering::SeqCst) > 0 && !held.is_lost() {
                    faults.lock().unwrap().push(format!("two are in l{at}"));
                }
                let token = held.token() as i64;
                if guarded.highest.fetch_max(token, Ordering::SeqCst) >= token {
                    faults.lock().unwrap().push(format!("the token {token} of l{at} does not grow"));
                }
                tokio::time::sleep(Duration::from_millis(dice.below(5))).await;
                guarded.turns.fetch_add(1, Ordering::SeqCst);
                guarded.inside.fetch_sub(1, Ordering::SeqCst);
                // The broker may be away: what could not be released lapses.
                drop(held.release().await);
            }
        }));
    }
    let turns = || guarded.iter().map(|guarded| guarded.turns.load(Ordering::SeqCst)).collect::<Vec<_>>();
    for round in 1..=4 {
        eventually("all locks are taken in turn", async || turns().iter().all(|turns| *turns >= round * 20)).await;
        broker.kill();
        broker = restart(&address, folder.path());
    }
    eventually("they go on", async || turns().iter().all(|turns| *turns >= 100)).await;
    stop.store(1, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    println!("turns: {:?}", turns());
    assert_eq!(*faults.lock().unwrap(), Vec::<String>::new());
    assert!(broker.terminate().success());
    let check = Command::new(env!("CARGO_BIN_EXE_tlog")).args(["check", "--data"]).arg(folder.path()).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// `tlog lock`, with more arguments.
fn tlog_lock(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
    command.arg("lock").args(arguments).env("TLOG_URL", broker.url("")).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(broker: &Broker, arguments: &[&str]) -> Output {
    tlog_lock(broker, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn ended(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_while_the_lock_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let printer = lock(&broker.address().to_string(), "l");
    let done = run(&broker, &["l", "--", "sh", "-c", "echo token $TLOG_LOCK_TOKEN; exit 7"]);
    assert_eq!((done.status.code(), &*text(&done.stdout)), (Some(7), "token 1\n"), "{done:?}");
    assert_eq!(printer.state().await.unwrap(), None, "it is released");
    assert_eq!(text(&run(&broker, &["l"]).stdout), "free\n");

    // Held for longer than its time, and the next waits.
    let began = Instant::now();
    let first = tlog_lock(&broker, &["l", "--ttl", "300ms", "--owner", "anna", "--", "sleep", "1"]).spawn().unwrap();
    eventually("anna holds it", async || printer.state().await.unwrap().is_some()).await;
    let said = text(&run(&broker, &["l"]).stdout);
    assert!(said.starts_with("held by anna with token ") && said.ends_with("; 0 owners waiting\n"), "{said}");
    let refused = run(&broker, &["l", "--wait", "0s", "--", "true"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stderr), "tlog: \"anna\" holds the lock \"l\"\n");
    let next = run(&broker, &["l", "--json", "--", "true"]);
    assert!(next.status.success() && began.elapsed() >= Duration::from_secs(1), "{next:?}");
    assert!(text(&next.stdout).starts_with("{\"name\":\"l\","), "{next:?}");
    assert!(ended(first).await.status.success());
    let absent = run(&broker, &["l", "--", "/no/such/command"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).starts_with("tlog: /no/such/command: "), "{absent:?}");
    assert_eq!(printer.state().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_ended_when_its_lock_is_lost_or_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let printer = lock(&broker.address().to_string(), "l");
    // With what the command has started: a shell waits for its sleep.
    let script = "sleep 600; echo never";
    let start = || tlog_lock(&broker, &["l", "--ttl", "600ms", "--", "sh", "-c", script]).spawn().unwrap();
    let child = start();
    eventually("it is held", async || printer.state().await.unwrap().is_some()).await;
    let token = printer.state().await.unwrap().unwrap().token;
    let (status, _) = post(&broker, "l/release", serde_json::json!({ "token": token })).await;
    assert_eq!(status, 204);
    let lost = ended(child).await;
    assert_eq!((lost.status.code(), &*text(&lost.stdout)), (Some(1), ""));
    let said = text(&lost.stderr);
    assert!(said.ends_with("tlog: the lock \"l\" was lost, and so the command was ended\n"), "{said}");

    let child = start();
    eventually("it is held", async || printer.state().await.unwrap().is_some()).await;
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let told = ended(child).await;
    assert_eq!(told.status.code(), Some(128 + 15), "{told:?}");
    assert_eq!(printer.state().await.unwrap(), None, "it is released");
}
