use super::*;

fn case(more: &str) -> Case {
    Case::parse(
        "c",
        &format!("about = \"x\"\nrun = \"surefault\"\nlimit_s = 7\nexit = 3\n{more}"),
    )
    .unwrap()
}

fn ended(exit: i32, stdout: &str) -> Ended {
    Ended {
        name: "c".into(),
        exit: Exit::Code(exit),
        wall: Duration::from_millis(20),
        cpu: Duration::from_millis(10),
        stdout: stdout.into(),
        stderr: "error: no such thing".into(),
    }
}

fn failures(more: &str, ended: &Ended) -> Vec<String> {
    judge(&case(more), "6.1", ended).0
}

#[test]
fn exit_json_and_time_are_judged() {
    let more = "[json]\na = 1\n[case]\ncpu_ms = { at_most = 5 }\n";
    assert_eq!(failures("[json]\na = 1", &ended(3, "{\"a\": 1}")), [""; 0]);
    let all = failures(more, &ended(0, "{\"a\": 2}"));
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(all[0], "exit 0, expected 3");
}

#[test]
fn what_is_not_json_fails_only_where_json_is_wanted() {
    assert_eq!(failures("", &ended(3, "plain")), [""; 0]);
    assert_eq!(failures("[json]\na = 1", &ended(3, "{\"a\": 1")).len(), 1);
    assert_eq!(failures("alike = [\"a\"]", &ended(3, "")).len(), 1);
}

#[test]
fn a_panic_shows_its_reason_and_not_its_stack() {
    let console = "== c\n[    8.1] Kernel panic - not syncing: why\n".to_owned()
        + &"[    8.2]  ? frame+0x1/0x2\n".repeat(50)
        + "[    8.3] ---[ end Kernel panic ]---\n";
    let outcome = Outcome::lost(&case(""), "died".into()).with_console(&console);
    assert_eq!(
        outcome.last_lines,
        "== c\n[    8.1] Kernel panic - not syncing: why\n[    8.3] ---[ end Kernel panic ]---"
    );
}

#[test]
fn a_failure_shows_what_was_said_last() {
    let outcome = Outcome::of(&case(""), "6.1", &ended(0, "out\n"));
    assert_eq!(outcome.last_lines, "out\nerror: no such thing");
    let outcome = Outcome::of(&case(""), "6.1", &ended(3, "out\n"));
    assert_eq!(outcome.last_lines, "");
}

#[test]
fn a_limit_is_named() {
    let text = failures("", &ended(137, "")).join("");
    assert!(text.contains("limit of 7 s"), "{text}");
}

#[test]
fn cases_that_differ_where_they_must_not_are_told_apart() {
    let mine = case("alike = [\"a\", \"b\"]\nlike = \"other\"\n");
    let mut outcome = Outcome::of(&mine, "6.1", &ended(3, "{\"a\": 1, \"b\": 2}"));
    let mut other = Outcome::of(&case(""), "6.1", &ended(3, "{\"a\": 1, \"b\": 3}"));
    other.case = "other".into();
    compare_cases(&mine, &mut outcome, &other);
    assert_eq!(
        outcome.verdict,
        Verdict::Failed {
            failures: vec!["b: 2, but 3 in other".into()]
        }
    );
}

#[test]
fn kernels_that_differ_where_they_must_not_are_told_apart() {
    let case = case("alike = [\"report.gfn\"]");
    let mut outcomes: Vec<_> = [5, 5, 6]
        .map(|gfn| {
            Outcome::of(
                &case,
                "6.1",
                &ended(3, &format!("{{\"report\": {{\"gfn\": {gfn}}}}}")),
            )
        })
        .into();
    let mut pairs: Vec<_> = ["6.1", "6.12", "7.3"]
        .into_iter()
        .zip(outcomes.iter_mut())
        .collect();
    compare_kernels(&case, &mut pairs);
    assert_eq!(outcomes[0].verdict, Verdict::Passed);
    assert_eq!(outcomes[1].verdict, Verdict::Passed);
    assert_eq!(
        outcomes[2].verdict,
        Verdict::Failed {
            failures: vec!["report.gfn: 6, but 5 on 6.1".into()]
        }
    );
}
