use surefault_core::PageIndex;
use surefault_core::run::TaskId;

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

/// What can be said is in the document, and in the module's.
#[test]
fn every_field_is_described() {
    let refused = parse("base = \"one\"\nsize = 4").expect_err("no such field");
    let text = refused.to_string();
    let fields = text.split('`').skip(1).step_by(2).skip(2);
    let docs = include_str!("../../../../../docs/traces.md");
    let mut count = 0;
    for field in fields.filter(|&field| field != "base") {
        count += 1;
        let quoted = [format!("`{field}`"), format!("`{field} =")];
        assert!(quoted.iter().any(|word| docs.contains(word)), "{field}");
        let example = format!("//! {field} = ");
        assert!(include_str!("../file.rs").contains(&example), "{field}");
    }
    assert!(count > 20, "{text}");
}

/// Everything that a machine can be is said in a file, and comes to what it says.
#[test]
fn a_file_says_what_the_machine_is() {
    let text = "base = \"crowd\"\ntasks = 8\nfailing = 4\nvcpus = 2\nscheduling = \"round-robin\"\n\
                tick = \"1ms\"\npaging = \"shadow\"\nmigrate = true\nkilled = \"1-2\"\n\
                kernel = \"failing\"\nirqs-off = \"5,9-10\"\nirqs-off-for = \"300us\"\n\
                guest-reads-errors = false\napf-on-after = \"2ms\"\napf-off-after = \"5ms\"\n\
                ack-delay = \"200us\"\non-report = \"wait\"\nfailure = \"temporary=2\"\n\
                repair-after = \"20ms\"\nmend-after = \"10ms\"\nfailure-ttl = \"50ms\"\n\
                remove = \"healthy\"\nremove-after = \"30ms\"\n";
    let file = parse(text).expect("it is right");
    let size = Size {
        tasks: 8,
        failing: 4,
        vcpus: 2,
    };
    let spec = file
        .spec(size, PolicyKind::Exact, 1)
        .expect("a size that fits");
    let ms = Duration::from_millis;
    let failing: Vec<PageIndex> = (0..4).map(PageIndex::new).collect();
    let all = |at: u64| -> Vec<_> { failing.iter().map(|&page| (ms(at), page)).collect() };
    assert_eq!(spec.scheduling, Scheduling::RoundRobin);
    let delays = (spec.tick, spec.ack_delay, spec.irqs_off_for);
    let us = Duration::from_micros;
    assert_eq!(delays, (ms(1), us(200), us(300)));
    assert_eq!((spec.paging, spec.migrate), (Paging::Shadow, true));
    assert_eq!(spec.killed, [1, 2].map(TaskId::new).into());
    assert_eq!(spec.kernel, failing.iter().copied().collect());
    assert_eq!(spec.irqs_off, [5, 9, 10].map(PageIndex::new).into());
    assert!(!spec.guest_reads_errors);
    let turned = [(ms(0), false), (ms(2), true), (ms(5), false)];
    assert_eq!(spec.apf_changes, turned);
    assert_eq!(spec.on_report, OnReport::Wait);
    let temporary = FailureMode::Temporary { failures: 2 };
    assert_eq!(spec.run.plan.mode_of(failing[3]), temporary);
    assert_eq!((&spec.repairs, &spec.mends), (&all(20), &all(10)));
    assert_eq!(spec.failure_ttl, Some(ms(50)));
    assert_eq!(spec.removals.len() as u64, spec.run.pages.get() - 4);
    crate::run(&spec).expect("a machine that makes sense");
    for (failure, percent) in [("stall", None), ("intermittent=30", Some(30))] {
        let text = format!("base = \"one\"\nfailure = \"{failure}\"\nguest-apf = false\n");
        let file = parse(&text).expect("it is right");
        let size = file.base.size();
        let spec = file.spec(size, PolicyKind::Exact, 1).expect("it fits");
        assert_eq!(spec.intermittent.values().next().copied(), percent);
        assert!(!spec.guest_apf);
        crate::run(&spec).expect("a machine that makes sense");
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
             flaky, kernel, migrate, shadow, repair, masked, storm",
        ),
        (
            "base = \"crowd\"\n\ntick = \"soon\"",
            "w.toml, line 3, field `tick`: 'soon' is not a duration: a number and a unit (ns, \
             us, ms, s)",
        ),
        (
            "base = \"crowd\"\ntask = 4",
            "w.toml, line 2, field `task`: unknown field `task`, expected one of `base`, `tasks`, \
             `failing`, `vcpus`, `scheduling`, `tick`, `paging`, `migrate`, `killed`, `kernel`, \
             `irqs-off`, `irqs-off-for`, `guest-apf`, `guest-reads-errors`, `apf-on-after`, \
             `apf-off-after`, `ack-delay`, `on-report`, `failure`, `repair-after`, `mend-after`, \
             `failure-ttl`, `remove`, `remove-after`, `deaths`, `death-after`, `death-at-step`",
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
             `tasks`, `failing`, `vcpus`, `scheduling`, `tick`, `paging`, `migrate`, `killed`, `kernel`, \
             `irqs-off`, `irqs-off-for`, `guest-apf`, `guest-reads-errors`, `apf-on-after`, \
             `apf-off-after`, `ack-delay`, `on-report`, `failure`, `repair-after`, `mend-after`, \
             `failure-ttl`, `remove`, `remove-after`, `deaths`, `death-after`, `death-at-step`",
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
            "w.toml, line 2, field `on-report`: 'wait' would wait for ever: nobody repairs the \
             pages; see `repair-after`",
        ),
        (
            "base = \"crowd\"\nkernel = \"some\"",
            "w.toml, line 2, field `kernel`: 'some' is not failing, healthy, all, none, or pages: 5 \
             or 5,9-12",
        ),
        (
            "base = \"crowd\"\nkilled = \"p=0.5\"",
            "w.toml, line 2, field `killed`: 'p=0.5' is not failing, healthy, all, none, or tasks: \
             5 or 5,9-12",
        ),
        (
            "base = \"crowd\"\nfailure = \"healthy\"",
            "w.toml, line 2, field `failure`: 'healthy' is not permanent, temporary=N (N from 1 to \
             255), truncate, stall or intermittent=PERCENT (1 to 100)",
        ),
        (
            "base = \"crowd\"\nirqs-off-for = \"1ms\"",
            "w.toml, line 2, field `irqs-off-for`: it means nothing without `irqs-off`",
        ),
        (
            "base = \"crowd\"\nremove = \"all\"",
            "w.toml, line 2, field `remove`: it means nothing without `remove-after`",
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
            "base = \"one\"\n\nirqs-off = \"4,9-12\"",
            "w.toml, line 3, field `irqs-off`: there is no page 12: there are 9",
        ),
        (
            "base = \"one\"\nkilled = \"1\"",
            "w.toml, line 2, field `killed`: there is no task 1: there are 1",
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
