use proptest::prelude::*;
use surefault_core::faults::Paging;
use surefault_core::plan::{FaultPlan, Latency, PageSet, Probability, Rule, mix};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, PagerMode, RunSpec};
use surefault_core::{PageCount, plan::FailureMode};

use super::*;
use crate::{Deaths, OnReport, Scheduling, Sim, SimSpec};

const MS: std::time::Duration = std::time::Duration::from_millis(1);

/// A machine with a bit of everything, from a seed.
fn spec(seed: u64) -> SimSpec {
    let draw = |n: u64, below: u64| mix(seed ^ mix(n)) % below;
    let latency = Latency::new(MS / 50, 5 * MS).expect("the right way round");
    let mut plan = FaultPlan::new(seed, latency);
    for (p, mode) in [
        (0.15, FailureMode::Permanent),
        (0.1, FailureMode::Temporary { failures: 2 }),
        (0.05, FailureMode::Truncate),
        (0.05, FailureMode::Stall),
    ] {
        plan.push(Rule {
            pages: PageSet::Random(Probability::new(p).expect("a probability")),
            mode,
            latency: None,
        });
    }
    let vcpus = 1 + draw(1, 3) as u16;
    let page = |n| PageIndex::new(draw(n, 24) as u32);
    let keeps_record = draw(4, 2) == 0;
    let deaths = match keeps_record && draw(19, 3) != 0 {
        true => Deaths {
            after: vec![2 * MS],
            at_steps: [40 + draw(20, 200)].into(),
            random: draw(21, 4) as u16,
        },
        false => Deaths::default(),
    };
    SimSpec {
        deaths,
        policy: PolicyKind::ALL[draw(2, PolicyKind::ALL.len() as u64) as usize],
        scheduling: Scheduling::Random,
        on_report: [OnReport::Heal, OnReport::Wait, OnReport::Stop][draw(3, 3) as usize],
        keeps_record,
        paging: [Paging::TwoDimensional, Paging::Shadow][draw(5, 2) as usize],
        guest_apf: draw(6, 4) != 0,
        migrate: draw(7, 2) == 0,
        ack_delay: MS / 10 * draw(8, 2) as u32,
        kernel: [page(9)].into(),
        irqs_off: [page(10), page(19), page(20), page(21)].into(),
        irqs_off_for: MS * draw(22, 3) as u32,
        intermittent: [(page(11), 60)].into(),
        repairs: vec![(20 * MS, page(12))],
        mends: vec![(15 * MS, page(23))],
        removals: vec![(MS, page(13)), (3 * MS, page(14))],
        apf_changes: vec![(2 * MS, draw(15, 2) == 0), (6 * MS, draw(16, 2) == 0)],
        killed: [TaskId::new(0)].into(),
        loop_limit: Some(30),
        max_steps: 4000,
        ..SimSpec::new(RunSpec {
            tasks: vcpus + draw(17, 5) as u16,
            vcpus,
            pages: PageCount::new(24),
            seed,
            plan,
            deadline: 30 * MS,
            attempts: 3,
            timeout: 500 * MS,
            apf: [ApfMode::User, ApfMode::User, ApfMode::Kernel, ApfMode::Off]
                [draw(18, 4) as usize],
            irqchip: Irqchip::Kernel,
            on_error: OnError::Exit,
            policy: PolicyKind::default(),
            pager: PagerMode::Surefault,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What time and a seed choose is always among what is possible, and comes to the same.
    #[test]
    fn every_simulated_run_is_a_walk_through_the_world(seed: u64) {
        let spec = spec(seed);
        let policy = spec.effective_policy().build(&spec.faults_config());
        let sim = Sim::recorded(&spec, policy, usize::MAX).expect("a spec that makes sense");
        let (result, sim) = sim.run_and_keep();
        let setup = Arc::new(spec.setup());
        let mut world = World::new(setup, Budgets::UNLIMITED).expect("a setup that makes sense");
        let mut faults = 0;
        for step in sim.steps() {
            let happened = world.apply(step).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let faulted = |what: &&Happened| matches!(what, Happened::Faulted { .. });
            faults += happened.iter().filter(faulted).count() as u64;
        }
        prop_assert_eq!(faults, result.counts.faults);
        prop_assert_eq!(result.counts.wrong_pages, 0);
        prop_assert_eq!(world.machine().is_done(), result.run.outcome == Outcome::Finished);
        prop_assert_eq!(world.machine().is_stopped(), result.run.outcome == Outcome::Reported);
        prop_assert_eq!(world.check_invariants(), Ok(()));
        prop_assert_eq!(world.machine().faults().view(), sim.faults().view());
        prop_assert_eq!(world.machine().pages().view(), sim.pages().view());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Worlds of equal views go on alike, whichever way each came there.
    #[test]
    fn equal_views_have_equal_steps_and_equal_successors(seed: u64) {
        let setup = Arc::new(spec(seed % 64).setup());
        let budgets = Budgets { kills: 1, repairs: 1, mends: 1, relapses: 1, removals: 1, apf_changes: 2, migrations: 1, deaths: 1 };
        let mut seen: std::collections::HashMap<u64, (View<AnyPolicy>, World<AnyPolicy>)> = Default::default();
        let (mut steps, mut others, mut met) = (Vec::new(), Vec::new(), 0);
        for walk in 0..6 {
            let mut world = World::new(setup.clone(), budgets).expect("a setup that makes sense");
            for n in 0..120 {
                world.steps(&mut steps);
                prop_assert!(world.check_invariants().is_ok());
                let Some(&step) = steps.get((mix(seed ^ mix(walk << 32 | n)) % steps.len().max(1) as u64) as usize) else { break };
                let view = world.view();
                if let Some((known, other)) = seen.get(&world.hash_view()) {
                    prop_assert_eq!(known, &view, "the hash tells them apart");
                    other.steps(&mut others);
                    prop_assert_eq!(&steps, &others);
                    let mut other = other.clone();
                    let mut again = world.clone();
                    other.advance(&step);
                    again.advance(&step);
                    prop_assert_eq!(other.view(), again.view(), "after {}", step);
                    met += 1;
                }
                seen.insert(world.hash_view(), (view, world.clone()));
                world.apply(&step).expect("it was among the steps");
            }
        }
        // The walks begin at the same place, so they meet at least there.
        prop_assert!(met >= 5);
    }
}

#[test]
fn what_is_not_possible_is_refused_and_changes_nothing() {
    let mut world =
        World::new(Arc::new(spec(1).setup()), Budgets::NONE).expect("a setup that makes sense");
    let before = world.view();
    for step in [
        Step::Ack(VcpuId::new(0)),
        Step::Repair(PageIndex::new(0)),
        Step::Kill(TaskId::new(0)),
        Step::Enter(VcpuId::new(900)),
        Step::Fetched {
            page: PageIndex::new(3),
            nth: 0,
            answer: Answer::Data,
        },
    ] {
        assert_eq!(world.apply(&step), Err(Impossible(step)));
    }
    assert_eq!(world.view(), before);
}
