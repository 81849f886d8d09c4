//! Runs on real KVM: what they report, in both forms.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use surefault_store::{PatternStore, ReadRequest, Store as _};
use surefault_testkit::page_size;

use crate::surefault::{BINARY, Ran, output, run};

crate::cases![
    healthy_runs_finish(Guest),
    a_failing_page_is_reported(Guest),
    a_report_is_the_same_in_each_mode(Guest),
    a_report_is_the_same_with_either_irqchip(Guest),
    an_irqchip_that_means_nothing_is_refused(Nothing),
    a_guest_that_is_told_kills_the_task(Guest),
    a_file_that_is_restored_lets_a_stopped_guest_go_on(Guest),
    a_stopped_guest_goes_on_when_told_to(Guest),
    a_control_socket_that_means_nothing_is_refused(Nothing),
    an_error_action_that_means_nothing_is_refused(Nothing),
    linux_alone_loops_or_says_bad_address(Guest),
    a_report_in_words(Guest),
    a_temporary_failure_is_not_reported(Guest),
    a_stall_is_reported_at_its_deadline(Guest),
    a_planned_truncation(Guest),
    a_file_that_is_truncated_while_running(Guest),
    a_plan_from_a_file(Guest),
    a_limit_that_is_reached(Guest),
    a_loop_by_policy_is_a_limit(Guest),
    no_progress_line_without_a_terminal(Guest),
    a_reader_that_is_gone(Guest),
    a_soak_says_what_it_ran(Guest),
];

/// A file with `pages` pages of some pattern.
fn file(pages: usize) -> tempfile::NamedTempFile {
    let mut bytes = vec![0; pages * page_size()];
    let pattern = PatternStore::new(99, bytes.len() as u64);
    let read = pattern.read(ReadRequest::first(0), &mut bytes);
    read.expect("the pattern");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&bytes).expect("write");
    file
}

fn json(arguments: &[&str]) -> Ran {
    run(&[arguments, &["--format", "json"]].concat())
}

/// Who may run the asynchronous faults on this host.
pub(crate) fn modes() -> Vec<&'static str> {
    let user = run(&["--pages", "1", "--apf", "user"]);
    match user.code {
        Some(0) => vec!["off", "kernel", "user"],
        Some(5) => {
            println!("skipped: --apf user: {}", user.stderr);
            vec!["off", "kernel"]
        }
        _ => panic!("{}", user.stderr),
    }
}

fn healthy_runs_finish() {
    for arguments in [
        &["--pages", "4"][..],
        &["--tasks", "16", "--vcpus", "2", "--pages", "500"],
        &[
            "--tasks",
            "3",
            "--pages",
            "64",
            "--latency",
            "0us..2ms",
            "--seed",
            "7",
        ],
    ] {
        let result = json(arguments).ended(0).json();
        assert_eq!(result["outcome"], "finished");
        assert_eq!(result["machine"], "kvm");
        assert_eq!(result["stats"]["wrong_sums"], 0);
        assert_eq!(result["stats"]["unchecked_sums"], 0);
    }
    let file = file(32);
    let path = file.path().to_str().expect("a plain path");
    let result = json(&["--pages", "32", "--tasks", "2", "--store", path]);
    assert_eq!(result.ended(0).json()["stats"]["tasks_finished"], 2);
}

fn a_failing_page_is_reported() {
    for (page, vcpus) in [("0", "1"), ("17", "2"), ("63", "1")] {
        let ran = json(&[
            "--pages", "64", "--tasks", "4", "--vcpus", vcpus, "--fail", page,
        ]);
        let result = ran.ended(3).json();
        assert_eq!(result["outcome"], "reported");
        let report = &result["report"];
        assert_eq!(report["page"].to_string(), page);
        assert_eq!(report["cause"]["kind"], "injected");
        assert_eq!(report["attempts"], 1);
        assert!(report["task"].is_u64(), "{report}");
        let access = report["access"].as_str().expect("a word");
        assert!(["read", "write"].contains(&access), "{access}");
        let gpa = report["gpa"]
            .as_str()
            .and_then(|gpa| gpa.strip_prefix("0x"));
        let gpa = u64::from_str_radix(gpa.expect("hexadecimal"), 16).expect("hexadecimal");
        let gfn = report["gfn"].as_u64().expect("a number");
        assert_eq!(gpa, gfn * page_size() as u64);
        assert_eq!(result["stats"]["wrong_sums"], 0);
    }
}

/// One task, one seed: whichever way the fault went, field by field.
fn a_report_is_the_same_in_each_mode() {
    let modes = modes();
    for page in ["0", "17", "63"] {
        let report = |apf: &str| {
            let ran = json(&["--pages", "64", "--fail", page, "--apf", apf, "--seed", "3"]);
            ran.ended(3).json()["report"].take()
        };
        let off = report("off");
        assert_eq!(off["page"].to_string(), page);
        for &apf in &modes[1..] {
            assert_eq!(report(apf), off, "{apf}");
        }
    }
    // With many tasks, a page that the plan fails, and the task that touched it.
    for &apf in &modes[1..] {
        let arguments = ["--pages", "64", "--tasks", "8", "--vcpus", "2"];
        let trouble = ["--fail", "9,20,33", "--apf", apf, "--latency", "1ms"];
        let result = json(&[arguments, trouble].concat()).ended(3).json();
        let page = result["report"]["page"].as_u64().expect("a number");
        assert!([9, 20, 33].contains(&page), "{page}");
        assert!(result["report"]["task"].is_u64(), "{result}");
        assert_eq!(result["stats"]["wrong_sums"], 0);
    }
}

fn a_report_is_the_same_with_either_irqchip() {
    let report = |irqchip: &str| {
        let ran = json(&["--pages", "64", "--fail", "17", "--irqchip", irqchip]);
        ran.ended(3).json()["report"].take()
    };
    assert_eq!(report("kernel"), report("user"));
    let told = json(&["--pages", "64", "--apf", "user", "--irqchip", "user"]).ended(0);
    assert_eq!(told.json()["outcome"], "finished");
    assert_eq!(told.json()["stats"]["pages_done"], 64);
    let ran = run(&["--pages", "64", "--irqchip", "user"]).ended(0);
    let first = ran.stdout.lines().next().expect("a line");
    assert!(
        first.contains("interrupt controllers in user space"),
        "{first}"
    );
}

fn an_irqchip_that_means_nothing_is_refused() {
    let user = ["--pages", "8", "--irqchip", "user"];
    run(&[&user[..], &["--apf", "kernel"]].concat()).refused(
        2,
        &["--apf kernel", "--irqchip user", "use --irqchip kernel"],
    );
    run(&[&user[..], &["--machine", "sim"]].concat()).refused(2, &["--irqchip", "--machine sim"]);
}

fn a_guest_that_is_told_kills_the_task() {
    let arguments = [
        "--pages",
        "64",
        "--tasks",
        "4",
        "--fail",
        "17",
        "--on-error",
        "guest",
    ];
    for apf in modes() {
        let result = json(&[&arguments[..], &["--apf", apf]].concat())
            .ended(0)
            .json();
        assert_eq!(result["outcome"], "finished");
        assert_eq!(result["report"], serde_json::Value::Null);
        assert_eq!(result["stats"]["tasks_killed"], 1);
        assert_eq!(result["stats"]["tasks_finished"], 3);
        assert_eq!(result["stats"]["wrong_sums"], 0);
    }
    let ran = run(&arguments).ended(0);
    assert!(
        ran.stdout.contains("1 task killed by the guest"),
        "{}",
        ran.stdout
    );
}

/// A run that stops at its errors, for at most as long as nobody waits for a test.
struct Stopping {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Stopping {
    fn start(arguments: &[&str]) -> Stopping {
        let mut child = Command::new(BINARY)
            .args(["run", "--on-error", "stop"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Stopping { child, stdout }
    }

    /// The lines of standard output up to one that begins with `end`.
    fn until(&mut self, end: &str) -> String {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let read = self.stdout.read_line(&mut line).expect("a line");
            assert!(read > 0, "ended without '{end}': {text}");
            text += &line;
            if line.trim_start().starts_with(end) {
                return text;
            }
        }
    }

    fn ended(&mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("text");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        // Only in a test that has failed is it still there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cut short while the guest runs, and put back after it has stopped.
fn a_file_that_is_restored_lets_a_stopped_guest_go_on() {
    let file = file(256);
    let path = file.path().to_str().expect("a plain path");
    let before = std::fs::read(path).expect("the file");
    let mut run = Stopping::start(&["--pages", "256", "--latency", "4ms", "--store", path]);
    run.until("machine: kvm");
    file.as_file().set_len(5).expect("set_len");
    let report = run.until("stopped");
    assert!(report.contains("cannot be provided"), "{report}");
    assert!(report.contains("truncated"), "{report}");
    std::thread::sleep(Duration::from_millis(500));
    file.as_file().write_all_at(&before, 0).expect("write");
    let (code, rest) = run.ended();
    assert_eq!(code, Some(0), "{rest}");
    assert!(!rest.contains("cannot be provided"), "{rest}");
    assert!(rest.contains("finished"), "{rest}");
    assert!(rest.contains("all that was read is right"), "{rest}");
}

fn ctl(socket: &str, command: &str) -> Ran {
    output(Command::new(BINARY).args(["ctl", socket, command]))
}

fn a_stopped_guest_goes_on_when_told_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("control");
    let socket = socket.to_str().expect("a plain path");
    for apf in modes() {
        let arguments = [
            "--pages",
            "64",
            "--fail",
            "9",
            "--apf",
            apf,
            "--control",
            socket,
        ];
        let mut run = Stopping::start(&arguments);
        let report = run.until("stopped");
        assert!(report.contains("page 9 cannot be provided"), "{report}");
        assert!(
            report.contains(&format!("surefault ctl {socket} resume")),
            "{report}"
        );
        // Still failing: the same report again.
        ctl(socket, "resume").ended(0);
        let again = run.until("stopped");
        assert!(again.contains("page 9 cannot be provided"), "{again}");
        ctl(socket, "repair").ended(0);
        let (code, rest) = run.ended();
        assert_eq!(code, Some(0), "{rest}");
        assert!(rest.contains("finished"), "{rest}");
        assert!(!std::path::Path::new(socket).exists());
    }
    // With JSON, there is but one object.
    let arguments = ["--pages", "64", "--fail", "9", "--control", socket];
    let mut run = Stopping::start(&[&arguments[..], &["--format", "json"]].concat());
    let begun = Instant::now();
    while ctl(socket, "repair").code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    let (code, object) = run.ended();
    assert_eq!(code, Some(0), "{object}");
    let object: serde_json::Value = serde_json::from_str(&object).expect("one JSON object");
    assert_eq!(object["outcome"], "finished");
    assert_eq!(object["stats"]["reports"], 1);
    assert_eq!(object["stats"]["healed"], 1);
    assert_eq!(object["stats"]["wrong_sums"], 0);
}

fn a_control_socket_that_means_nothing_is_refused() {
    run(&["--pages", "8", "--control", "/nowhere/socket"])
        .refused(2, &["--control", "--on-error stop"]);
    ctl("/nowhere/socket", "resume").refused(2, &["/nowhere/socket"]);
    run(&["--machine", "sim", "--on-error", "stop"]).refused(2, &["nobody outside"]);
}

fn an_error_action_that_means_nothing_is_refused() {
    let guest = ["--pages", "8", "--on-error", "guest", "--pager", "none"];
    for machine in ["kvm", "sim"] {
        run(&[&guest[..], &["--machine", machine]].concat())
            .refused(2, &["--on-error guest", "--pager none"]);
    }
}

fn linux_alone_loops_or_says_bad_address() {
    let alone = ["--pager", "none", "--pages", "64", "--fail", "17"];
    let begun = Instant::now();
    let ran = json(&[&alone[..], &["--apf", "off", "--timeout", "60s"]].concat());
    let result = ran.ended(3).json();
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(result["report"]["cause"]["kind"], "bad-address");
    assert_eq!(result["stats"]["pager"], serde_json::Value::Null);

    // Thousands of faults in two seconds on a quiet host; a busy one is given more time.
    let mut taken = 0;
    for timeout in ["2s", "8s", "30s"] {
        let ran = json(&[&alone[..], &["--apf", "kernel", "--timeout", timeout]].concat());
        let result = ran.ended(4).json();
        taken = result["stats"]["kvm"]["pf_taken"]
            .as_u64()
            .expect("a count");
        assert_eq!(result["report"], serde_json::Value::Null);
        assert_eq!(result["stats"]["returns"], 0);
        if taken >= 2000 {
            assert_eq!(result["outcome"], "looped");
            break;
        }
    }
    assert!(taken >= 2000, "{taken} faults");
}

fn a_report_in_words() {
    let ran = run(&["--pages", "64", "--fail", "9"]).ended(3);
    let mut lines = ran.stdout.lines();
    let first = lines.next().expect("a line");
    assert!(first.starts_with("machine: kvm"), "{first}");
    let second = lines.next().expect("a line");
    assert!(
        second.starts_with("page 9 cannot be provided: "),
        "{second}"
    );
    for words in [
        "gfn ",
        "gpa 0x",
        "memory slot ",
        " by vCPU 0 at rip 0x",
        "task 0",
        "after 1 attempt\n",
        "  next    ",
    ] {
        assert!(ran.stdout.contains(words), "'{words}': {}", ran.stdout);
    }
    assert_eq!(ran.stderr, "");
}

fn a_temporary_failure_is_not_reported() {
    let ran = json(&[
        "--pages",
        "64",
        "--fail",
        "9,20:temporary=2",
        "--attempts",
        "3",
    ]);
    assert_eq!(ran.ended(0).json()["outcome"], "finished");
    let ran = json(&[
        "--pages",
        "64",
        "--fail",
        "9:temporary=2",
        "--attempts",
        "2",
    ]);
    assert_eq!(ran.ended(3).json()["report"]["attempts"], 2);
}

fn a_stall_is_reported_at_its_deadline() {
    let begun = Instant::now();
    let ran = json(&[
        "--pages",
        "64",
        "--tasks",
        "2",
        "--vcpus",
        "2",
        "--fail",
        "9:stall",
        "--deadline",
        "500ms",
    ]);
    let result = ran.ended(3).json();
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert_eq!(result["report"]["cause"]["kind"], "deadline");
    assert_eq!(result["report"]["page"], 9);
}

fn a_planned_truncation() {
    let file = file(64);
    let path = file.path().to_str().expect("a plain path");
    let ran = json(&["--pages", "64", "--store", path, "--fail", "9:truncate"]);
    let result = ran.ended(3).json();
    let cause = &result["report"]["cause"];
    assert_eq!(cause["kind"], "truncated");
    let text = cause["text"].as_str().expect("a text");
    let (found, needed) = (9 * page_size(), 10 * page_size());
    let wanted = format!("{path} is too short: it has {found} bytes, and {needed} are needed");
    assert_eq!(text, wanted);
}

/// Every page takes its time, so that the file can be cut short before the guest is through.
fn a_file_that_is_truncated_while_running() {
    let file = file(512);
    let path = file.path().to_str().expect("a plain path");
    let child = Command::new(BINARY)
        .args([
            "run",
            "--pages",
            "512",
            "--latency",
            "5ms",
            "--format",
            "json",
        ])
        .args(["--store", path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    std::thread::sleep(Duration::from_millis(500));
    let size = 4 * page_size() + 5;
    file.as_file().set_len(size as u64).expect("set_len");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let cause = &result["report"]["cause"];
    assert_eq!(cause["kind"], "truncated");
    let page = result["report"]["page"].as_u64().expect("a number");
    let needed = (page + 1) * page_size() as u64;
    let wanted = format!("it has {size} bytes, and {needed} are needed");
    let text = cause["text"].as_str().expect("a text");
    assert!(text.contains(&wanted), "{text}");
}

fn a_plan_from_a_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a plain path");
    std::fs::write(path, "[[rule]]\npages = \"5,9\"\nfail = \"permanent\"\n").expect("write");
    let ran = json(&["--pages", "64", "--fault-plan", path]);
    let page = ran.ended(3).json()["report"]["page"].as_u64();
    assert!([Some(5), Some(9)].contains(&page), "{page:?}");
    // What is said on the command line comes first.
    let healthy = ["--fail", "5:healthy", "--fail", "9:healthy"];
    let ran = json(&[&["--pages", "64", "--fault-plan", path][..], &healthy].concat());
    ran.ended(0);
}

fn a_limit_that_is_reached() {
    let arguments = ["--pages", "64", "--latency", "1s", "--timeout", "300ms"];
    let ran = json(&arguments).ended(4);
    assert_eq!(ran.json()["outcome"], "timed-out");
    let ran = run(&arguments).ended(4);
    assert!(
        ran.stdout.contains("not finished within 300 ms"),
        "{}",
        ran.stdout
    );
}

/// The policy that Linux has, from user space; given more time where the host is busy.
fn a_loop_by_policy_is_a_limit() {
    if !modes().contains(&"user") {
        return;
    }
    let ended = ["1s", "5s", "30s"].map(|timeout| {
        move || {
            let looping = ["--apf", "user", "--policy", "retry", "--fail", "9"];
            let ran = json(&[&looping[..], &["--pages", "64", "--timeout", timeout]].concat());
            ran.ended(4).json()["outcome"].clone()
        }
    });
    assert!(ended.into_iter().any(|outcome| outcome() == "looped"));
}

fn no_progress_line_without_a_terminal() {
    let ran = run(&["--pages", "64", "--latency", "10ms"]).ended(0);
    assert_eq!(ran.stderr, "");
    assert!(!ran.stdout.contains('\r'));
}

fn a_reader_that_is_gone() {
    let mut child = Command::new(BINARY)
        .args(["run", "--pages", "8"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

fn a_soak_says_what_it_ran() {
    let ran = json(&["--soak", "1ms", "--seed", "5"]).ended(0).json();
    assert_eq!(ran["outcome"], "held");
    assert_eq!(ran["first_seed"], 5);
    let runs = ran["runs"].as_u64().expect("a number");
    let outcomes = ran["outcomes"].as_object().expect("an object").values();
    let ended: u64 = outcomes.filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(ran["skipped"].as_u64(), Some(runs - ended));
    let ran = run(&["--soak", "1ms", "--seed", "6"]).ended(0);
    assert!(ran.stdout.contains("everything held"), "{}", ran.stdout);
    run(&["--soak", "1ms", "--machine", "sim"]).refused(2, &["--soak", "--machine sim"]);
}
