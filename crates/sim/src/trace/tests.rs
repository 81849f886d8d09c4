use std::path::Path;

use surefault_core::PageId;
use surefault_core::faults::FaultsConfig;
use surefault_core::policy::{Attempt, Policy, PolicyKind};
use surefault_core::residency::PageState;

use super::*;
use crate::workloads::{Size, WorkloadKind, spec};
use crate::world::fairness::{Claim, NoLoop};
use crate::world::{Budgets, World};
use crate::{Sim, SimSpec};

fn parse(text: &str) -> Result<Trace, TraceError> {
    Trace::parse(Path::new("t.trace"), text)
}

/// The traces in the tree, by name.
fn saved() -> Vec<(String, Trace)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let load = |path: &std::path::PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy();
        let trace = Trace::load(path).unwrap_or_else(|error| panic!("{error}"));
        (name.into_owned(), trace)
    };
    paths.iter().map(load).collect()
}

#[test]
fn every_saved_trace_comes_to_what_it_expects() {
    let traces = saved();
    assert!(traces.len() >= 12, "{}", traces.len());
    for (name, trace) in &traces {
        let replayed = replay(trace).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!trace.expected.is_empty(), "{name} expects nothing");
        let checked = replayed.check(trace);
        assert_eq!(checked, Ok(()), "{name}: {:?}", replayed.no_loop);
    }
}

/// Not only the ending: all that happened, in a debug build, in a release build, for any processor.
#[test]
fn every_saved_trace_holds_all_that_happens() {
    let mut missing = Vec::new();
    for (name, trace) in saved() {
        let replayed = replay(&trace).unwrap_or_else(|error| panic!("{name}: {error}"));
        for expected in [
            Expected::Ending(replayed.ending),
            Expected::Digest(replayed.digest()),
        ] {
            if !trace.expected.contains(&expected) {
                missing.push(format!("{name}: expect {expected}"));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
}

/// What can be said is in the document.
#[test]
fn every_key_step_and_fact_is_described() {
    const DOCS: &str = include_str!("../../../../docs/traces.md");
    let keys = keys::KEYS.iter().map(|key| key.name);
    let verbs = parse::VERBS.iter().map(|verb| verb.name);
    let facts = expect::FACTS.iter().map(|(name, _)| *name);
    for name in keys.chain(verbs).chain(facts) {
        let quoted = [format!("`{name}`"), format!("`{name} ")];
        assert!(quoted.iter().any(|word| DOCS.contains(word)), "{name}");
    }
}

#[test]
fn every_saved_trace_is_written_as_it_was_read() {
    for (name, trace) in saved() {
        let again = parse(&trace.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines = again.lines.clone();
        assert_eq!(again, Trace { lines, ..trace }, "{name}");
    }
}

/// What each posted policy is caught at, `exact` brings to an end in the same situation.
#[test]
fn exact_ends_every_saved_situation() {
    for (name, trace) in saved() {
        let replayed = follow(&trace, PolicyKind::Exact).expect("a machine that makes sense");
        let ended = matches!(replayed.ending, Ending::Finished | Ending::Reported);
        assert!(ended, "{name}: {:?}", replayed.ending);
        let tally = &replayed.tally;
        let paid = (tally.wrong_reports, tally.refused, tally.off);
        assert_eq!(paid, (0, 0, 0), "{name}");
        assert!(tally.retries <= 1, "{name}: {tally:?}");
    }
}

#[test]
fn what_is_wrong_is_named_with_file_line_and_field() {
    let head = "surefault trace 1\npages 4\ntask 0 1\n";
    for (text, message) in [
        (
            "",
            "t.trace, line 1, field ``: a trace begins with 'surefault trace 1'",
        ),
        (
            "trace\n",
            "t.trace, line 1, field `trace`: a trace begins with 'surefault trace 1'",
        ),
        (
            "surefault trace 1\n",
            "t.trace, line 1, field `task`: there is no task",
        ),
        (
            "surefault trace 1\n\npolicy exactly # no\n",
            "t.trace, line 3, field `policy`: 'exactly' is not retry error-gfn error-pending \
             error-gfn-table exit-on-completion guest-error exact",
        ),
        (
            "surefault trace 1\ntask 0 7\n",
            "t.trace, line 2, field `task`: task 0 touches page 7 of a region of 1 pages",
        ),
        (
            "surefault trace 1\ntask 0 0\nfail permanent 3\n",
            "t.trace, line 3, field `pages`: there is no page 3: there are 1",
        ),
        (
            "surefault trace 1\ntask 0 0\nvcpus 0\n",
            "t.trace, line 3, field `vcpus`: setting up the vCPUs: vcpus is 0, must be 1 to 4096",
        ),
    ] {
        assert_eq!(parse(text).expect_err("it is wrong").to_string(), message);
    }
    for (line, message) in [
        ("enter", "line 4, field `enter`: '' is not a vCPU"),
        (
            "fetched 1 lost",
            "line 4, field `fetched`: '1 lost' is not a page, one of data, temporary, permanent, \
             truncated, and at most nth=N",
        ),
        (
            "expect outcome well",
            "line 4, field `expect`: 'outcome well' is not outcome and one of",
        ),
        (
            "leave 0",
            "line 4, field `leave`: this is no key, no step, no 'cycle' and no 'expect'",
        ),
        (
            "cycle",
            "line 3, field `cycle`: nothing goes on again and again",
        ),
        (
            "enter 0\npages 5",
            "line 5, field `pages`: it belongs to the head",
        ),
    ] {
        let error = parse(&format!("{head}{line}\n"))
            .expect_err("it is wrong")
            .to_string();
        assert!(error.starts_with(&format!("t.trace, {message}")), "{error}");
    }
}

#[test]
fn an_impossible_step_is_named_with_what_would_be_possible() {
    let trace = parse("surefault trace 1\ntask 0 0\n\nswitch 0 0\nack 0\n").expect("a trace");
    let error = replay(&trace).expect_err("there is nothing to acknowledge");
    assert_eq!(
        error.to_string(),
        "step 2 (line 5): 'ack 0' is not possible here; possible: 'enter 0'"
    );
}

/// A task waits for a page that comes, and its vCPU is halted and ticks meanwhile: the source is left
/// out. An earlier attempt called this a loop, even under `exact`.
#[test]
fn a_cycle_that_leaves_somebody_out_is_no_loop() {
    let head = "surefault trace 1\npages 1\ntask 0 0\nguest-apf no\n";
    let steps = "switch 0 0\nenter 0\ntouch 0\ncycle\ntick 0\nenter 0\ntouch 0\n";
    for policy in ["retry", "exact"] {
        let trace = parse(&format!("{head}policy {policy}\n{steps}"));
        let replayed = replay(&trace.expect("a trace")).expect("every step is possible");
        assert_eq!(replayed.ending, Ending::Open);
        let left_out = Claim::Fetch(surefault_core::PageIndex::new(0));
        assert_eq!(replayed.no_loop, Some(NoLoop::Unfair(left_out)), "{policy}");
    }
}

/// vCPU 1 loops; vCPU 0 has interrupts off, and only the choice of steps keeps it from going on.
#[test]
fn a_cycle_that_leaves_the_end_of_interrupts_off_out_is_no_loop() {
    let head = "surefault trace 1\npolicy retry\nvcpus 2\npages 2\ntask 0 0\ntask 1 1\n\
                irqs-off 0\nfail permanent 1\nrecord no\nguest-apf no\n";
    let before = "switch 0 0\nswitch 1 1\nenter 0\nenter 1\ntouch 0\nfetched 0 data\nenter 0\n\
                  touch 0\n";
    let round = "touch 1\nfetched 1 permanent\nenter 1\n";
    let played = |steps: &str| {
        let trace = parse(&format!("{head}{steps}")).expect("a trace");
        replay(&trace).expect("every step is possible")
    };
    let stays = played(&format!("{before}{}cycle\n{round}", round.repeat(3)));
    let left_out = Claim::Move(surefault_core::VcpuId::new(0));
    assert_eq!(stays.no_loop, Some(NoLoop::Unfair(left_out)));
    let ends = played(&format!(
        "{before}irqs-on 0\n{}cycle\n{round}",
        round.repeat(3)
    ));
    assert_eq!((ends.ending, ends.no_loop), (Ending::Looped, None));
}

/// `exact`, but for pages with an odd number: their failures are not seen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct HalfBlind;

impl Policy for HalfBlind {
    fn new(_: &FaultsConfig) -> HalfBlind {
        HalfBlind
    }

    fn may_go_async(&mut self, attempt: &Attempt) -> bool {
        let odd = |page: PageId| page.index().get() % 2 == 1;
        !matches!(attempt.state, PageState::Failed(_)) || odd(attempt.page)
    }
}

/// A recorded run of a workload under a policy.
fn recorded<P: Policy>(spec: &SimSpec, policy: P) -> (crate::SimResult, Trace) {
    let sim = Sim::recorded(spec, policy, 100_000).expect("a spec that makes sense");
    let (result, sim) = sim.run_and_keep();
    (
        result,
        Trace::new(Arc::new(spec.setup()), sim.steps().to_vec()),
    )
}

#[test]
fn the_failure_of_a_broken_policy_shrinks_to_at_most_20_steps() {
    let size = Size {
        tasks: 12,
        failing: 4,
        vcpus: 1,
    };
    for seed in 0..3 {
        let mut spec = spec(WorkloadKind::Crowd, size, PolicyKind::Exact, seed).expect("a size");
        spec.loop_limit = Some(20);
        let (result, trace) = recorded(&spec, HalfBlind);
        assert!(result.counts.max_retries > 1, "it is broken");
        let before = trace.steps.len();
        let shrunk = shrink(&trace, &HalfBlind).expect("a trace that can be played");
        assert!(
            shrunk.steps.len() <= 20,
            "seed {seed}, of {before}:\n{shrunk}"
        );
        // It shows the same, and the whole policy does not.
        let shows = |policy| {
            let trace = Trace {
                expected: Vec::new(),
                ..shrunk.clone()
            };
            follow(&trace, policy).expect("a machine that makes sense")
        };
        assert!(shows(PolicyKind::Exact).tally.retries <= 1);
        let replayed =
            super::replay::replay_with(&shrunk, HalfBlind).expect("every step is possible");
        assert!(replayed.tally.retries > 1 || replayed.ending == Ending::Looped);
    }
}

#[test]
fn a_loop_shrinks_to_a_loop() {
    let size = Size {
        tasks: 6,
        failing: 2,
        vcpus: 1,
    };
    let mut spec = spec(WorkloadKind::Crowd, size, PolicyKind::Retry, 1).expect("a size");
    spec.loop_limit = Some(10);
    let (_, trace) = record(&spec, 100_000).expect("a spec that makes sense");
    assert_eq!(trace.expected, [Expected::Ending(Ending::Looped)]);
    assert!(trace.cycle.is_some());
    let policy = PolicyKind::Retry.build(&trace.setup.faults);
    let shrunk = shrink(&trace, &policy).expect("a trace that can be played");
    assert!(shrunk.steps.len() <= 20, "{shrunk}");
    let replayed = replay(&shrunk).expect("every step is possible");
    assert_eq!(replayed.ending, Ending::Looped);
    assert_eq!(replayed.check(&shrunk), Ok(()));
}

#[test]
fn what_left_to_itself_goes_on_fairly_ends_under_exact() {
    for kind in [WorkloadKind::One, WorkloadKind::Kernel, WorkloadKind::Flaky] {
        let size = Size {
            tasks: 3,
            failing: 2,
            vcpus: 1,
        };
        let spec = spec(kind, size, PolicyKind::Exact, 3).expect("a size");
        let world = World::new(Arc::new(spec.setup()), Budgets::NONE).expect("a setup");
        let run = Runner::default().run(&world, 3000);
        assert_eq!(run.cycle, None, "{}", kind.as_str());
        let answers = run
            .steps
            .iter()
            .filter(|step| matches!(step, Step::Fetched { .. }));
        assert!(answers.count() >= 3);
        let end = find::after(&world, &run.steps);
        assert!(end.machine().is_done(), "{}", kind.as_str());
    }
}
