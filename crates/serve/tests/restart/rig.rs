//! A supervised daemon, in processes of this test's binary.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use surefault_core::PageSize;
use surefault_core::plan::FaultPlan;
use surefault_pager::FailedPage;
use surefault_serve::control::{ControlClient, ControlError, Reply, Request};
use surefault_serve::{Daemon, ServeConfig, Source, Supervised, Supervisor, SupervisorConfig};
use surefault_store::{PatternStore, PlannedStore, Store, StoreError};
use surefault_testkit::{PATIENCE, page_size};
use tempfile::TempDir;

use crate::vmm::{Part, Vmm};

pub(crate) const SEED: u64 = 23;

pub(crate) fn host_page() -> PageSize {
    PageSize::new(page_size() as u64).expect("a page size")
}

/// Says to a process of this binary that it is a supervisor, and of what.
pub(crate) const SUPERVISOR: &str = "SUREFAULT_TEST_SUPERVISOR";
/// The argument before a worker's plan.
const WORKER: &str = "--be-the-worker";
/// The argument before a stand-by's plan.
const STAND_BY: &str = "--stand-by";

/// How a daemon is to be.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    /// The program that the workers are.
    pub(crate) binary: PathBuf,
    pub(crate) pages: u64,
    pub(crate) rules: Vec<String>,
    pub(crate) latency: String,
    /// `poison`, `kill` or `wait`.
    pub(crate) failed_page: String,
    /// Without a worker for so many milliseconds, faults are ended.
    pub(crate) deadline: u64,
    /// A worker that is silent for so many milliseconds is killed.
    pub(crate) silence: u64,
    /// A handshake may take so many milliseconds.
    pub(crate) handshake: u64,
    /// Whether a process stands by for the supervisor.
    pub(crate) standby: bool,
    /// Whether a worker dies with its supervisor.
    pub(crate) mortal: bool,
    /// Whether there is a supervisor. Without one the daemon is the process that is started.
    pub(crate) supervised: bool,
}

impl Plan {
    fn socket(&self) -> PathBuf {
        self.dir.join("vms")
    }

    fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// A pipe that hangs up when this test is over, however it ends: nothing is left behind then.
    fn tether(&self) -> PathBuf {
        self.dir.join("tether")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn say(&self, line: &str) {
        // Opened at once: there may be no room for it later.
        static LOG: OnceLock<std::io::Result<File>> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let mut log = std::fs::OpenOptions::new();
            log.append(true).create(true).open(self.log())
        });
        let line = format!("{} {line}\n", now_ns());
        let written = log.as_ref().map(|mut log| log.write_all(line.as_bytes()));
        let written = written.is_ok_and(|written| written.is_ok());
        // Its directory goes with the test.
        assert!(written || !self.dir.exists(), "the log takes nothing");
    }
}

/// The monotonic clock, which is the same in all processes.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Plays a supervisor, stand-by or worker, if this process is to be one.
pub(crate) fn play() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next();
    let mut plan = || serde_json::from_str(&arguments.next().expect("a plan")).expect("a plan");
    match role.as_deref() {
        Some(WORKER) => return Some(play_worker(plan())),
        Some(STAND_BY) => return Some(play_standby(&plan())),
        _ => {}
    }
    let plan = std::env::var(SUPERVISOR).ok()?;
    let plan: Plan = serde_json::from_str(&plan).expect("a plan");
    Some(match plan.supervised {
        true => play_supervisor(&plan),
        false => {
            set_parent_process_death_signal(Some(Signal::KILL)).expect("to die with its parent");
            serve(plan, None)
        }
    })
}

fn supervisor_config(plan: &Plan) -> SupervisorConfig {
    let plan_text = serde_json::to_string(plan).expect("JSON");
    SupervisorConfig {
        binary: plan.binary.clone(),
        arguments: vec![WORKER.into(), plan_text.clone().into()],
        standby_arguments: plan
            .standby
            .then(|| vec![STAND_BY.into(), plan_text.into()]),
        deadline: Duration::from_millis(plan.deadline),
        silence: Duration::from_millis(plan.silence),
    }
}

fn play_supervisor(plan: &Plan) -> ExitCode {
    let says = plan.clone();
    let supervisor = Supervisor::new(supervisor_config(plan), move |line| says.say(line));
    set_parent_process_death_signal(Some(Signal::KILL)).expect("to die with its parent");
    supervise(supervisor)
}

fn play_standby(plan: &Plan) -> ExitCode {
    tie(plan);
    let says = plan.clone();
    let supervisor = Supervisor::stand_by(supervisor_config(plan), move |line| says.say(line));
    match supervisor.expect("a supervisor before") {
        Some(supervisor) => supervise(supervisor),
        None => ExitCode::SUCCESS,
    }
}

fn supervise(supervisor: Supervisor) -> ExitCode {
    let (signals, _nobody_signals) = rustix::pipe::pipe().expect("a pipe");
    ExitCode::from(supervisor.run(&signals).expect("a worker"))
}

/// Has this process end with the test.
fn tie(plan: &Plan) {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tether = rustix::fs::open(plan.tether(), flags, Mode::empty());
    std::thread::spawn(move || {
        // Without the pipe the test is over already.
        let Ok(tether) = tether else {
            std::process::exit(1);
        };
        while poll(&mut [PollFd::new(&tether, PollFlags::IN)], None).is_err() {}
        std::process::exit(1);
    });
}

fn play_worker(plan: Plan) -> ExitCode {
    match plan.mortal {
        true => {
            set_parent_process_death_signal(Some(Signal::KILL)).expect("to die with its parent")
        }
        false => tie(&plan),
    }
    let supervised = Supervised::begin().expect("a supervisor");
    match program_name().as_deref() {
        Some(ENDS) => return ExitCode::FAILURE,
        Some(HANGS) => loop {
            std::thread::park();
        },
        _ => {}
    }
    serve(plan, Some(supervised))
}

fn serve(plan: Plan, supervised: Option<Supervised>) -> ExitCode {
    let mut config = ServeConfig::default().with_deadline(PATIENCE);
    config.control = Some(plan.control());
    config.handshake.time = Duration::from_millis(plan.handshake);
    config.pager.failed_page = match &*plan.failed_page {
        "kill" => FailedPage::Kill,
        "wait" => FailedPage::Wait,
        _ => FailedPage::Poison,
    };
    let is_successor = supervised.as_ref().is_some_and(Supervised::is_successor);
    let planned = Arc::new(Planned(plan.clone()));
    let source = Arc::clone(&planned);
    let sources = Box::new(move |_: &str| Ok(Arc::clone(&source) as Arc<dyn Source>));
    let says = plan.clone();
    let log = move |event: &surefault_serve::event::Event| says.say(&event.to_string());
    let daemon = match supervised {
        Some(supervised) => Daemon::supervised(config, log, sources, supervised),
        None => Daemon::new(config, log, sources),
    };
    let daemon = daemon.expect("a daemon");
    if !is_successor {
        daemon.listen(&plan.socket(), planned).expect("a socket");
    }
    daemon.run();
    ExitCode::SUCCESS
}

/// This test's binary by this name is a worker that begins and then ends,
pub(crate) const ENDS: &str = "ends-after-hello";
/// and by this name one that begins and then does nothing.
pub(crate) const HANGS: &str = "hangs-after-hello";

fn program_name() -> Option<String> {
    let program = std::env::args_os().next()?;
    Some(Path::new(&program).file_name()?.to_str()?.to_owned())
}

/// The pattern, failing and slow as planned.
struct Planned(Plan);

impl Source for Planned {
    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        let mut plan = FaultPlan::new(SEED, self.0.latency.parse().expect("a latency"));
        for rule in &self.0.rules {
            plan.push(rule.parse().expect("a rule"));
        }
        let pattern = PatternStore::new(SEED, self.0.pages * page_size() as u64);
        Ok(Arc::new(PlannedStore::new(pattern, plan, host_page())))
    }

    fn describe(&self) -> String {
        "the pattern".to_owned()
    }
}

/// A supervised daemon.
pub(crate) struct Rig {
    pub(crate) plan: Plan,
    pub(crate) supervisor: Child,
    _tether: OwnedFd,
    _dir: TempDir,
}

impl Rig {
    pub(crate) fn new(change: impl FnOnce(&mut Plan)) -> Rig {
        Rig::with(change, |_| ())
    }

    /// One whose supervisor is started in a special way.
    pub(crate) fn with(change: impl FnOnce(&mut Plan), special: impl FnOnce(&mut Command)) -> Rig {
        let dir = tempfile::tempdir().expect("a directory");
        let mut plan = Plan {
            dir: dir.path().to_owned(),
            binary: std::env::current_exe().expect("this test's binary"),
            pages: 1024,
            rules: Vec::new(),
            latency: "0us..300us".to_owned(),
            failed_page: "poison".to_owned(),
            deadline: 5000,
            silence: 5000,
            handshake: 5000,
            standby: false,
            mortal: true,
            supervised: true,
        };
        change(&mut plan);
        let (tether, mode) = (plan.tether(), Mode::RUSR | Mode::WUSR);
        mknodat(CWD, &tether, FileType::Fifo, mode, 0).expect("a pipe");
        let both_ends = OFlags::RDWR | OFlags::CLOEXEC;
        let tether = rustix::fs::open(&tether, both_ends, Mode::empty()).expect("a pipe");
        let mut command = Command::new(std::env::current_exe().expect("this test's binary"));
        command
            .env(SUPERVISOR, serde_json::to_string(&plan).expect("JSON"))
            .stdin(Stdio::null());
        special(&mut command);
        let supervisor = command.spawn().expect("a supervisor");
        let rig = Rig {
            plan,
            supervisor,
            _tether: tether,
            _dir: dir,
        };
        if rig.plan.supervised {
            rig.worker_after(0);
        } else {
            rig.told("that it listens", 0, |line| {
                line.starts_with("listening").then_some(())
            });
        }
        rig
    }

    /// Lines of the log, with when they were written.
    pub(crate) fn log(&self) -> Vec<(u64, String)> {
        let text = std::fs::read_to_string(self.plan.log()).unwrap_or_default();
        let line = |line: &str| {
            let (at, text) = line.split_once(' ')?;
            Some((at.parse().ok()?, text.to_owned()))
        };
        text.lines().filter_map(line).collect()
    }

    /// Waits for a line that `find` likes, written after `after`.
    pub(crate) fn told<T>(
        &self,
        what: &str,
        after: u64,
        find: impl Fn(&str) -> Option<T>,
    ) -> (u64, T) {
        let until = Instant::now() + PATIENCE;
        loop {
            let lines = self.log();
            let mut lines = lines.iter().filter(|(at, _)| *at > after);
            let found = lines.find_map(|(at, line)| Some((*at, find(line)?)));
            if let Some(found) = found {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{what} is never told:\n{}",
                std::fs::read_to_string(self.plan.log()).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The first worker that has begun to serve after `after`, and when it did.
    pub(crate) fn worker_after(&self, after: u64) -> (u64, Pid) {
        self.told("a worker", after, |line| {
            let pid = line.strip_prefix("worker ")?.split_once(" serves ")?.0;
            Pid::from_raw(pid.parse().ok()?)
        })
    }

    /// The next process that takes a supervisor's place after `after`, and when it did.
    pub(crate) fn supervisor_after(&self, after: u64) -> (u64, Pid) {
        self.told("another supervisor", after, |line| {
            let (_, pid) = line.split_once("DIED: process ")?;
            Pid::from_raw(pid.strip_suffix(" takes its place")?.parse().ok()?)
        })
    }

    /// The next process that stands by after `after`.
    pub(crate) fn standby_after(&self, after: u64) -> Pid {
        let standby = self.told("a stand-by", after, |line| {
            let pid = line.strip_prefix("process ")?.strip_suffix(" stands by")?;
            Pid::from_raw(pid.parse().ok()?)
        });
        standby.1
    }

    /// Kills the worker; gives how long nobody served.
    pub(crate) fn kill_worker(&self, worker: &mut Pid) -> Duration {
        let killed = now_ns();
        // It may just have died by itself.
        let _ = kill_process(*worker, Signal::KILL);
        let (served, next) = self.worker_after(killed);
        *worker = next;
        Duration::from_nanos(served - killed)
    }

    /// How long it took from `killed` until each VM was served again, once a worker serves.
    pub(crate) fn resumptions(&self, killed: u64) -> Vec<Duration> {
        let log = self.log();
        let resumed = log
            .iter()
            .filter(|(at, line)| *at > killed && line.ends_with(" is served on"));
        let freezes = resumed.map(|(at, _)| Duration::from_nanos(at - killed));
        freezes.collect()
    }

    /// A VM of this daemon.
    pub(crate) fn vm(&self, change: impl FnOnce(&mut Part)) -> Vmm {
        let mut part = Part::new(&self.plan.socket(), self.plan.pages);
        change(&mut part);
        Vmm::start(&part)
    }

    /// Four VMs of this daemon, with balloons.
    pub(crate) fn four_vms(&self) -> Vec<Vmm> {
        self.vms(4, |part| (part.balloon, part.vcpus) = (part.pages / 3, 2))
    }

    /// So many VMs, whose handshakes are under way.
    pub(crate) fn vms(&self, count: usize, change: impl Fn(&mut Part)) -> Vec<Vmm> {
        (0..count).map(|_| self.vm(&change)).collect()
    }

    /// So many VMs that are served by now: a supervisor that dies between accepting one and giving
    /// the connection to somebody takes it along.
    pub(crate) fn served_vms(&self, count: usize, change: impl Fn(&mut Part)) -> Vec<Vmm> {
        let before = now_ns();
        let vms = self.vms(count, change);
        until("all VMs are served", || {
            let log = self.log();
            let began = log.iter().filter(|(at, line)| {
                *at > before && line.starts_with("vm ") && line.contains(" regions, ")
            });
            began.count() == count
        });
        vms
    }

    pub(crate) fn upgrade(&self, binary: Option<&Path>) -> Result<Reply, String> {
        let binary = binary.map(Path::to_owned);
        let answer = self.ask(&Request::Upgrade { binary });
        answer.map_err(|error| error.to_string())
    }

    /// A program in the daemon's directory.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let script = self.plan.dir.join(name);
        std::fs::write(&script, format!("#!/bin/sh\n{text}\n")).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("a mode");
        script
    }

    /// Whether a process has `word` among its arguments.
    pub(crate) fn runs(&self, word: &str) -> bool {
        let processes = std::fs::read_dir("/proc").expect("/proc");
        processes.flatten().any(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            line.split(|&byte| byte == 0)
                .any(|argument| argument == word.as_bytes())
        })
    }

    pub(crate) fn ask(&self, request: &Request) -> Result<Reply, ControlError> {
        ControlClient::connect(&self.plan.control())?.ask(request)
    }

    /// This test's binary under another name.
    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        let copy = self.plan.dir.join(name);
        link_or_copy(&copy);
        copy
    }
}

pub(crate) fn link_or_copy(to: &Path) {
    let from = std::env::current_exe().expect("this test's binary");
    if std::fs::hard_link(&from, to).is_err() {
        std::fs::copy(&from, to).expect("a copy");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.plan.log()).unwrap_or_default();
            eprintln!("{log}");
        }
    }
}

/// Whether the long versions of tests are asked for.
pub(crate) fn is_full() -> bool {
    std::env::var("SUREFAULT_FULL").is_ok_and(|full| full == "1")
}

/// Waits until `done`.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < limit, "never happens: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process has ended. Who has to reap it may take its time.
pub(crate) fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// The median and the greatest, in words.
pub(crate) fn spread(mut of: Vec<Duration>) -> String {
    of.sort();
    match (of.get(of.len() / 2), of.last()) {
        (Some(median), Some(max)) => {
            format!("{} times: median {median:.1?}, max {max:.1?}", of.len())
        }
        _ => "never".to_owned(),
    }
}

/// No page.
pub(crate) const NONE: [u64; 0] = [];
