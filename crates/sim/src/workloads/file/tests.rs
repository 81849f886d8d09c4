use super::*;

fn parse(text: &str) -> Result<WorkloadFile, WorkloadFileError> {
    WorkloadFile::parse(Path::new("w.toml"), text)
}

#[test]
fn a_file_changes_what_it_names() {
    let file = parse("base = \"crowd\"\ntasks = 4\nscheduling = \"adversarial\"\ntick = \"1ms\"\n")
        .expect("it is right");
    assert_eq!((file.base, file.tasks), (WorkloadKind::Crowd, Some(4)));
    let size = Size {
        tasks: 4,
        failing: 2,
        vcpus: 1,
    };
    let spec = file
        .spec(size, PolicyKind::Retry, 1)
        .expect("a size that fits");
    assert_eq!(spec.scheduling, Scheduling::Adversarial);
    assert_eq!(spec.tick, Duration::from_millis(1));
    assert_eq!(spec.paging, Paging::TwoDimensional, "as it ships");
}

#[test]
fn a_file_kills_the_worker() {
    let text = "base = \"crowd\"\ntasks = 4\nfailing = 2\ndeaths = 3\ndeath-after = \"1ms\"\n\
                death-at-step = 40\n";
    let file = parse(text).expect("it is right");
    let size = Size {
        tasks: 4,
        failing: 2,
        vcpus: 1,
    };
    for policy in [PolicyKind::Exact, PolicyKind::ErrorPending] {
        let spec = file.spec(size, policy, 1).expect("a size that fits");
        let counts = crate::run(&spec).expect("a spec that makes sense").counts;
        assert_eq!((counts.deaths, counts.wrong_pages), (5, 0), "{policy}");
    }
}

/// One line, as the command prints it: the error with its causes.
fn refusal(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

#[test]
fn what_is_wrong_is_named_with_file_line_and_field() {
    for (text, message) in [
        (
            "# a crowd\nbase = \"crowed\"",
            "w.toml, line 2, field `base`: 'crowed' is not one of one, crowd, ghost, collide, \
             flaky, kernel, migrate, shadow, repair, storm",
        ),
        (
            "base = \"crowd\"\n\ntick = \"soon\"",
            "w.toml, line 3, field `tick`: 'soon' is not a duration: a number and a unit (ns, \
             us, ms, s)",
        ),
        (
            "base = \"crowd\"\ntask = 4",
            "w.toml, line 2, field `task`: unknown field `task`, expected one of `base`, `tasks`, \
             `failing`, `vcpus`, `scheduling`, `paging`, `on-report`, `guest-apf`, \
             `guest-reads-errors`, `migrate`, `ack-delay`, `tick`, `apf-on-after`, `apf-off-after`, \
             `deaths`, `death-after`, `death-at-step`",
        ),
        (
            "base = \"crowd\"\ntasks = \"4\"",
            "w.toml, line 2, field `tasks`: invalid type: string \"4\", expected a number of at \
             most 65535",
        ),
        (
            "base = \"crowd\"\nvcpus = -1",
            "w.toml, line 2, field `vcpus`: invalid value: integer `-1`, expected a number of at \
             most 65535",
        ),
        (
            "base = \"crowd\"\nmigrate = 1",
            "w.toml, line 2, field `migrate`: invalid type: integer `1`, expected a boolean",
        ),
        (
            "tasks = 4\n",
            "w.toml, line 1, field `base`: missing: the workload to start from",
        ),
        (
            "base = \"crowd\"\ntasks = 4\ntasks = 5",
            "w.toml, line 3, field `tasks`: duplicate key",
        ),
        (
            "base = \"crowd\"\n[crowd]\ntasks = 4",
            "w.toml, line 2, field `crowd`: unknown field `crowd`, expected one of `base`, \
             `tasks`, `failing`, `vcpus`, `scheduling`, `paging`, `on-report`, `guest-apf`, \
             `guest-reads-errors`, `migrate`, `ack-delay`, `tick`, `apf-on-after`, `apf-off-after`, \
             `deaths`, `death-after`, `death-at-step`",
        ),
        (
            "base = \"crowd\"\ntasks = ",
            "w.toml, line 2, field `tasks`: string values must be quoted, expected literal string",
        ),
        (
            "base = \"crowd\"\ntasks\n",
            "w.toml, line 2, field `tasks`: key with no value, expected `=`",
        ),
        (
            "base = \"crowd\"\n= 4\n",
            "w.toml, line 2 (`= 4`): unquoted keys cannot be empty, expected letters, \
             numbers, `-`, `_`",
        ),
        (
            "base = \"crowd\"\napf-on-after = \"5ms\"\napf-off-after = \"2ms\"",
            "w.toml, line 3, field `apf-off-after`: it must be later than `apf-on-after`",
        ),
        (
            "base = \"crowd\"\nguest-apf = false\napf-off-after = \"2ms\"",
            "w.toml, line 2, field `guest-apf`: the guest that never has asynchronous faults cannot \
             turn them on or off",
        ),
        (
            "base = \"crowd\"\non-report = \"wait\"",
            "w.toml, line 2, field `on-report`: 'wait' would wait for ever: only the pages of \
             'repair' are repaired",
        ),
    ] {
        let error = parse(text).expect_err("it is wrong");
        assert_eq!(refusal(&error), message, "{text}");
    }
}

#[test]
fn sizes_that_contradict_are_blamed_on_the_line_that_gives_them() {
    for (text, message) in [
        (
            "base = \"crowd\"\n\ntasks = 0",
            "w.toml, line 3, field `tasks`: tasks must be at least 1",
        ),
        (
            "base = \"crowd\"\ntasks = 2\nfailing = 4000",
            "w.toml, line 3, field `failing`: 4000 failing pages are too many for 2 tasks: at most \
             512",
        ),
        (
            "base = \"storm\"\ntasks = 2",
            "w.toml, line 2, field `tasks`: 4096 failing pages are too many for 2 tasks: at most \
             512",
        ),
        (
            "base = \"crowd\"\nvcpus = 1\nmigrate = true",
            "w.toml, line 2, field `vcpus`: tasks that migrate need at least 2 vCPUs, not 1",
        ),
    ] {
        let file = parse(text).expect("each for itself is right");
        let usual = file.base.size();
        let size = Size {
            tasks: file.tasks.unwrap_or(usual.tasks),
            failing: file.failing.unwrap_or(usual.failing),
            vcpus: file.vcpus.unwrap_or(usual.vcpus),
        };
        let error = file.check(size).expect_err("they contradict");
        let blamed = file.blame(error).expect("the file gives it");
        assert_eq!(refusal(&blamed), message, "{text}");
    }
    let innocent = parse("base = \"crowd\"").expect("it is right");
    innocent
        .blame(SizeError::Zero("tasks"))
        .expect_err("it gives no number");
}

#[test]
fn a_file_that_is_no_text_or_not_there() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"base = \"crowd\"\ntick = \"\xff\"").expect("room");
    let error = WorkloadFile::load(file.path()).expect_err("no text");
    let wrong = "line 2, field `tick`: the text is not UTF-8";
    assert_eq!(
        error.to_string(),
        format!("{}, {wrong}", file.path().display())
    );
    let error = WorkloadFile::load(Path::new("/nowhere/w.toml")).expect_err("not there");
    assert!(refusal(&error).contains("cannot read the workload /nowhere/w.toml: "));
}
