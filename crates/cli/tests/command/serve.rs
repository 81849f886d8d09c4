//! `serve`, `ctl` and `attach-demo`, as three processes, the first inside its filter of system calls.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use surefault_store::{PatternStore, ReadRequest, Store};
use surefault_testkit::PATIENCE;
use tempfile::TempDir;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    a_snapshot_is_served(Uffd),
    a_snapshot_that_was_cut_short(Uffd),
    told_by_the_control_socket(Uffd),
    metrics_of_the_daemon(Uffd),
    a_worker_that_is_killed_is_replaced(Uffd),
    a_supervisor_that_is_killed_is_replaced(Uffd),
    without_a_supervisor(Uffd),
    what_makes_no_sense(Nothing),
];

/// A daemon; killed when it is dropped.
struct Serve {
    dir: TempDir,
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Serve {
    /// Serves `bytes` bytes of a pattern at the socket `vm`.
    fn start(bytes: u64, arguments: &[&str]) -> Serve {
        let dir = tempfile::tempdir().expect("a directory");
        let mut data = vec![0; bytes as usize];
        PatternStore::new(5, bytes)
            .read(ReadRequest::first(0), &mut data)
            .expect("the pattern");
        std::fs::write(dir.path().join("mem"), data).expect("a file");
        let mut child = Command::new(BINARY)
            .current_dir(dir.path())
            .args(["serve", "--listen", "vm=mem", "--control", "control"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut serve = Serve { dir, child, stderr };
        serve.says("listening at vm, serving");
        serve
    }

    /// Reads on until a line that has `word`.
    fn says(&mut self, word: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let read = self.stderr.read_line(&mut line).expect("a pipe");
            assert!(read > 0, "'{word}' is not in: {all}");
            if line.contains(word) {
                return line;
            }
            all += &line;
        }
    }

    fn command(&self, arguments: &[&str]) -> Ran {
        output(
            Command::new(BINARY)
                .current_dir(self.dir.path())
                .args(arguments),
        )
    }

    fn attach(&self, arguments: &[&str]) -> Ran {
        self.command(&[&["attach-demo", "vm", "--expect", "pattern:5"], arguments].concat())
    }

    fn ctl(&self, arguments: &[&str]) -> Ran {
        self.command(&[&["ctl", "control"], arguments].concat())
    }

    /// SIGTERM, and its end.
    fn drained(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("signalled");
        self.says("draining:");
        assert_eq!(self.child.wait().expect("its end").code(), Some(0));
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // One that is only killed has another take its place.
        let until = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_snapshot_is_served() {
    for arguments in [
        &[][..],
        &["--prefetch", "sequential"],
        &["--failed-page", "kill"],
    ] {
        let mut serve = Serve::start(4 << 20, arguments);
        let ran = serve
            .attach(&["--vcpus", "3", "--regions", "4", "--balloon", "9"])
            .ended(0);
        assert!(
            ran.stdout.contains("3072 visits right, 0 wrong"),
            "{}",
            ran.stdout
        );
        let ended = serve.says("ended after");
        assert!(ended.contains("pages") && ended.contains("p99"), "{ended}");
        let json = serve.attach(&["--format", "json"]).ended(0).json();
        assert_eq!(json["outcome"], "finished");
        serve.says("vm 2: process");
        serve.says("ended after");
        serve.drained();
    }
}

fn a_snapshot_that_was_cut_short() {
    let mut serve = Serve::start(1 << 20, &["--failed-page", "poison"]);
    let ran = serve.attach(&["--pages", "260"]).ended(3);
    assert!(
        ran.stdout.contains("4 pages could not be read (SIGBUS)"),
        "{}",
        ran.stdout
    );
    let said = serve.says("failed");
    assert!(
        said.contains("mem is too short: it has 1048576 bytes"),
        "{said}"
    );
    serve.drained();
}

fn told_by_the_control_socket() {
    let mut serve = Serve::start(1 << 20, &[]);
    serve.ctl(&["add", "other=mem"]).ended(0);
    serve.says("listening at");
    serve
        .ctl(&["add", "other=mem"])
        .refused(2, &["is listened at already"]);
    serve
        .ctl(&["add", "third=nothing"])
        .refused(2, &["there is no file"]);
    let listed = serve.ctl(&["list"]).ended(0).stdout;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let json = serve.ctl(&["list", "--format", "json"]).ended(0).json();
    assert_eq!(json["vms"].as_array().map(Vec::len), Some(0));
    serve.ctl(&["heal", "7"]).refused(2, &["there is no VM 7"]);
    serve
        .command(&["attach-demo", "other", "--pages", "8"])
        .ended(0);
    serve.ctl(&["remove", "other"]).ended(0);
    serve
        .command(&["attach-demo", "other", "--pages", "8"])
        .refused(2, &["cannot connect"]);
    serve.drained();
}

fn metrics_of_the_daemon() {
    // Some port that is free now.
    let address: SocketAddr = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("its address")
    };
    let serve = Serve::start(1 << 20, &["--metrics", &address.to_string()]);
    serve.attach(&["--pages", "8"]).ended(0);
    let mut stream = TcpStream::connect(address).expect("connected");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        .expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(
        answer.contains("\nsurefault_serve_vms_started_total 1\n"),
        "{answer}"
    );
    serve.drained();
}

fn what_makes_no_sense() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let serve = |arguments: &[&str]| {
        output(
            Command::new(BINARY)
                .current_dir(dir.path())
                .arg("serve")
                .args(arguments),
        )
    };
    serve(&[]).refused(2, &["nothing to serve", "--listen SOCKET=STORE"]);
    serve(&["--listen", "x"]).refused(2, &["'x' is not SOCKET=STORE"]);
    serve(&["--listen", "s=nothing"]).refused(2, &["--listen", "there is no file nothing"]);
    serve(&["--listen", "s=http://x"]).refused(2, &["sources by 'http://'"]);
    serve(&["--listen", "s=x", "--metrics", "0.0.0.0:1"]).refused(2, &["only this host"]);
    file("plain", "x");
    serve(&["--listen", "plain=plain"]).refused(2, &["plain is there, and not a socket"]);
    file("bad.toml", "control = \"c\"\ndeadline = \"soon\"\n");
    let bad = serve(&["--config", "bad.toml"]);
    bad.refused(2, &["--config", "bad.toml, line 2 (`deadline = \"soon\"`)"]);
    serve(&["--config", "no.toml"]).refused(2, &["cannot read no.toml"]);
    output(
        Command::new(BINARY)
            .current_dir(dir.path())
            .args(["ctl", "nobody", "list"]),
    )
    .refused(2, &["cannot connect to nobody"]);
}

/// The worker that has begun to serve last.
fn worker(serve: &mut Serve) -> Pid {
    let line = serve.says(" serves ");
    let pid = line
        .split_once("worker ")
        .and_then(|(_, rest)| rest.split(' ').next());
    let pid = pid.and_then(|pid| pid.parse().ok()).expect("a pid");
    Pid::from_raw(pid).expect("not 0")
}

fn a_worker_that_is_killed_is_replaced() {
    let mut serve = Serve::start(16 << 20, &[]);
    let mut pid = worker(&mut serve);
    let dir = serve.dir.path().to_owned();
    let demo = std::thread::spawn(move || {
        let arguments = [
            "attach-demo",
            "vm",
            "--expect",
            "pattern:5",
            "--balloon",
            "400",
        ];
        output(Command::new(BINARY).current_dir(dir).args(arguments))
    });
    serve.says("vm 1: process");
    for _ in 0..3 {
        kill_process(pid, Signal::KILL).expect("it lives");
        pid = worker(&mut serve);
    }
    serve.ctl(&["upgrade", "/bin/false"]).ended(2);
    let upgraded = serve.ctl(&["upgrade"]).ended(0);
    assert!(
        upgraded.stdout.contains("upgraded: "),
        "{}",
        upgraded.stdout
    );
    assert_ne!(pid, worker(&mut serve));
    let ran = demo.join().expect("no panic").ended(0);
    assert!(ran.stdout.contains(" 0 wrong"), "{}", ran.stdout);
    serve.drained();
}

fn a_supervisor_that_is_killed_is_replaced() {
    let mut serve = Serve::start(16 << 20, &[]);
    let served = worker(&mut serve);
    serve.says("stands by");
    let dir = serve.dir.path().to_owned();
    let demo = std::thread::spawn(move || {
        let arguments = ["attach-demo", "vm", "--expect", "pattern:5"];
        output(Command::new(BINARY).current_dir(dir).args(arguments))
    });
    serve.says("vm 1: process");
    serve.child.kill().expect("it lives");
    let line = serve.says("takes its place");
    let words = line.split("DIED: process ").nth(1);
    let next = words.and_then(|words| words.split(' ').next()?.parse().ok());
    let next = Pid::from_raw(next.expect("a pid")).expect("not 0");
    assert_eq!(worker(&mut serve), served, "the worker was never away");
    kill_process(served, Signal::KILL).expect("it lives");
    assert_ne!(worker(&mut serve), served);
    let ran = demo.join().expect("no panic").ended(0);
    assert!(ran.stdout.contains(" 0 wrong"), "{}", ran.stdout);
    serve.ctl(&["upgrade"]).ended(0);
    // It ends as the first one would have, and whoever stands by with it.
    kill_process(next, Signal::TERM).expect("it lives");
    serve.says("draining:");
    let mut rest = String::new();
    serve.stderr.read_to_string(&mut rest).expect("a pipe");
    assert!(!rest.contains("DIED"), "{rest}");
}

fn without_a_supervisor() {
    let mut serve = Serve::start(1 << 20, &["--no-supervisor"]);
    serve.attach(&["--pages", "256"]).ended(0);
    let refused = serve.ctl(&["upgrade"]).ended(2);
    assert!(
        refused.stderr.contains("no supervisor"),
        "{}",
        refused.stderr
    );
    serve.says("ended after");
    serve.drained();
}
