//! `surefault watch`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use surefault_testkit::{Backing, Mapping, PATIENCE};
use surefault_uffd::{Outcome, RegisterMode, Userfaultfd, Wake};

use crate::host::for_everybody;
use crate::surefault::{BINARY, Ran, output};

crate::cases![
    nothing_is_found_where_nothing_is(Root),
    a_frozen_thread_is_found_and_named(Uffd),
    a_command_is_run_for_each_case(Uffd),
    what_lacks_is_said(Root),
    without_any_right_nothing_is_watched(Root),
    a_process_that_is_not_there_is_wrong_usage(Nothing),
    metrics_are_served(Root),
    nothing_is_left_in_tracefs(Root),
    a_loop_is_found(RootAndGuest),
    stopped_before_its_time(Root),
];

fn watch(arguments: &[&str]) -> Ran {
    output(Command::new(BINARY).arg("watch").args(arguments))
}

fn own_pid() -> String {
    std::process::id().to_string()
}

fn nothing_is_found_where_nothing_is() {
    let pid = own_pid();
    let ran = watch(&["--pid", &pid, "--for", "300ms", "--format", "json"]).ended(0);
    let json = ran.json();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["command"], "watch");
    assert_eq!(json["outcome"], "healthy");
    assert_eq!(json["stuck"], serde_json::json!([]));
    assert_eq!(json["frozen"], serde_json::json!([]));
    assert_eq!(json["stats"]["tracing"], true);
    assert!(json["stats"]["watched_ns"].as_u64() >= Some(300_000_000));
}

/// Runs `body` while a thread of this process waits for a page that nobody provides.
fn frozen(body: impl FnOnce()) {
    // All tests are of this process: with two at once, each would find the other's thread.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let uffd = Userfaultfd::create(surefault_uffd::Options::default()).expect("a userfaultfd");
    let mapping = Mapping::new(Backing::Anonymous, 1);
    // SAFETY: nothing relies on what the mapping's absent pages contain.
    unsafe { uffd.register(mapping.all(), RegisterMode::MISSING) }.expect("register");
    std::thread::scope(|scope| {
        let named = std::thread::Builder::new().name("vcpu7".to_owned());
        let toucher = named.spawn_scoped(scope, || mapping.load(0));
        let toucher = toucher.expect("spawn");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // Whatever came of it: the thread goes on.
        let answered = uffd.zeropage(mapping.all(), Wake::Now);
        assert_eq!(answered, Ok(Outcome::Done));
        assert_eq!(toucher.join().expect("join"), 0);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn a_frozen_thread_is_found_and_named() {
    frozen(|| {
        let pid = own_pid();
        let limit = ["--frozen-after", "1s"];
        let arguments = [&["--pid", &pid, "--once"], &limit[..]].concat();
        let ran = watch(&[&arguments[..], &["--format", "json"]].concat()).ended(3);
        let json = ran.json();
        assert_eq!(json["outcome"], "found");
        let found = &json["frozen"][0];
        assert_eq!(found["pid"], std::process::id());
        assert_eq!(found["comm"], "vcpu7");
        assert_eq!(found["vcpu"], 7);
        assert_eq!(found["wait"], "userfault");
        assert_eq!(found["cause"]["kind"], "handler-gone");
        assert_eq!(found["holders"][0]["pid"], std::process::id());
        assert!(found["since_ns"].as_u64() >= Some(1_000_000_000));
        let text = watch(&arguments).ended(3).stdout;
        assert!(text.contains("FROZEN"), "{text}");
        assert!(text.contains("handler-gone"), "{text}");
    });
}

fn a_command_is_run_for_each_case() {
    frozen(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("out");
        let command = format!("echo $SUREFAULT_CASE $SUREFAULT_PID >> {}", out.display());
        let pid = own_pid();
        let arguments = ["--pid", &pid, "--for", "6s", "--frozen-after", "1s"];
        watch(&[&arguments[..], &["--on-stuck", &command]].concat()).ended(3);
        let said = std::fs::read_to_string(out).expect("the command ran");
        assert_eq!(said, format!("frozen {pid}\n"));
    });
}

fn as_nobody(binary: &std::path::Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    output(command.arg(binary).arg("watch").args(arguments))
}

fn what_lacks_is_said() {
    let (_directory, binary) = for_everybody();
    let ran = as_nobody(&binary, &["--for", "100ms"]).ended(0);
    assert!(
        ran.stderr.contains("not watched: finding stuck VMs"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("only processes of this user"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("run as root"), "{}", ran.stderr);
}

fn without_any_right_nothing_is_watched() {
    let (_directory, binary) = for_everybody();
    let ran = as_nobody(&binary, &["--pid", &own_pid(), "--for", "100ms"]);
    ran.refused(
        5,
        &[
            "nothing can be watched",
            "may not be looked at",
            "run as root",
        ],
    );
}

fn a_process_that_is_not_there_is_wrong_usage() {
    watch(&["--pid", "4194304"]).refused(2, &["there is no process 4194304"]);
    watch(&["--once", "--for", "1s"]).refused(2, &["cannot be used with"]);
}

/// A command without an end; killed when this is dropped.
struct Endless(Child);

impl Endless {
    fn start(arguments: &[&str]) -> Endless {
        let child = Command::new(BINARY)
            .arg("watch")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn();
        Endless(child.expect("spawn"))
    }

    fn instance(&self) -> Option<String> {
        let prefix = format!("surefault-{}-", self.0.id());
        instances()
            .into_iter()
            .find(|name| name.starts_with(&prefix))
    }

    fn wait_for_instance(&self) {
        let end = Instant::now() + PATIENCE;
        while self.instance().is_none() {
            assert!(Instant::now() < end, "it traces");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end_by(&mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_raw(self.0.id() as i32).expect("a pid");
        kill_process(pid, signal).expect("signal");
        self.0.wait().expect("wait").code()
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a mount namespace of its own, where tracefs is mounted.
fn instances() -> Vec<String> {
    let script = "mount -t tracefs none /mnt && ls /mnt/instances";
    let mut command = Command::new("unshare");
    let ran = output(command.args(["--mount", "sh", "-c", script])).ended(0);
    ran.stdout.lines().map(str::to_owned).collect()
}

fn nothing_is_left_in_tracefs() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut endless = Endless::start(&["--pid", &own_pid()]);
        endless.wait_for_instance();
        // A handler that is not there yet would be missed.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(endless.end_by(signal), Some(0), "{signal:?}");
        assert_eq!(endless.instance(), None, "{signal:?}");
    }
    let mut endless = Endless::start(&["--pid", &own_pid()]);
    endless.wait_for_instance();
    assert_eq!(endless.end_by(Signal::KILL), None);
    assert!(
        endless.instance().is_some(),
        "nobody can tidy up after SIGKILL"
    );
    watch(&["--pid", &own_pid(), "--for", "10ms"]).ended(0);
    assert_eq!(endless.instance(), None, "but the next start");
}

fn metrics_are_served() {
    // A port that is free now.
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let busy = watch(&["--metrics", &address.to_string()]);
    busy.refused(2, &["--metrics", "listen at"]);
    drop(listener);
    let endless = Endless::start(&["--pid", &own_pid(), "--metrics", &address.to_string()]);
    let end = Instant::now() + PATIENCE;
    let mut text = String::new();
    while !text.contains("surefault_watch_tracing 1") {
        assert!(Instant::now() < end, "{text}");
        std::thread::sleep(Duration::from_millis(50));
        let Ok(mut stream) = TcpStream::connect(address) else {
            continue;
        };
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("ask");
        text.clear();
        stream.read_to_string(&mut text).expect("read");
    }
    let mut lines = BufReader::new(text.as_bytes()).lines();
    let first = lines.next().expect("a line").expect("text");
    assert_eq!(first, "HTTP/1.1 200 OK");
    drop(endless);
}

/// A guest of our own that Linux alone cannot give a page, from start to report.
fn a_loop_is_found() {
    let alone = ["--pager", "none", "--apf", "kernel", "--timeout", "90s"];
    let looping = Command::new(BINARY)
        .arg("run")
        .args(alone)
        .args(["--pages", "64", "--fail", "17"])
        .stdout(Stdio::null())
        .spawn();
    let looping = Endless(looping.expect("the command starts"));
    let pid = looping.0.id().to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let hook = directory.path().join("hook");
    // It prints, too, which must not get into the result.
    let command = format!(
        "echo \"$SUREFAULT_CASE $SUREFAULT_PID $SUREFAULT_CAUSE\" | tee -a {}",
        hook.display()
    );
    let arguments = ["--once", "--pid", &pid, "--format", "json"];
    let limit = ["--frozen-after", "60s", "--on-stuck", &command];
    let ran = watch(&[&arguments[..], &limit].concat()).ended(3);
    let found = ran.json();
    assert_eq!(found["outcome"], "found");
    let stuck = &found["stuck"][0];
    assert_eq!(stuck["pid"].to_string(), pid);
    assert_eq!(stuck["vcpu"], 0);
    // Where the built-in guest has its page 17.
    assert_eq!(stuck["gfn"], 0x10_0011);
    assert_eq!(stuck["cause"]["kind"], "truncated");
    assert!(stuck["retries"].as_u64() >= Some(100), "{stuck}");
    let said = std::fs::read_to_string(hook).expect("the hook has run");
    assert_eq!(said, format!("stuck {pid} truncated\n"));
}

fn stopped_before_its_time() {
    let mut endless = Endless::start(&["--pid", &own_pid(), "--for", "90s"]);
    endless.wait_for_instance();
    // A handler that is not there yet would be missed.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(endless.end_by(Signal::TERM), Some(6));
}
