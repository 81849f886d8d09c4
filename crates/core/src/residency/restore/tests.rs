use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::cell::Cell;
use std::time::Duration;

use super::super::{Admission, Backoff, Effect, PageState};
use super::world::{Mistake, Source, Step, World};
use super::*;
use crate::{Cause, CauseId, CauseKind, PageId, PageIndex, RegionId};

fn config() -> ResidencyConfig {
    ResidencyConfig {
        attempts: 2,
        deadline: Duration::from_millis(160),
        range_patience: Duration::from_millis(80),
        backoff: Backoff {
            first: Duration::from_millis(1),
            max: Duration::from_millis(4),
        },
        failure_ttl: None,
        max_range: 4,
        max_fetches: 6,
        max_pending: 6,
        max_failures: 3,
    }
}

fn page(region: u16, n: u32) -> PageId {
    PageId::new(RegionId::new(region), PageIndex::new(n))
}

fn failure() -> Failure {
    Failure {
        cause: Cause {
            kind: CauseKind::Truncated,
            id: CauseId::default(),
        },
        attempts: 2,
    }
}

#[test]
fn a_machine_goes_on_with_what_is_recorded() {
    let recorded = [
        RecordedPage::Present,
        RecordedPage::Absent,
        RecordedPage::Removed,
        RecordedPage::Failed(failure()),
    ];
    let regions = [PageCount::new(1), PageCount::new(3)];
    let mut machine = Residency::restored(config(), &regions, recorded).unwrap();
    assert_eq!(machine.state(page(0, 0)), Ok(PageState::Present));
    assert_eq!(machine.state(page(1, 0)), Ok(PageState::Absent));
    assert_eq!(machine.state(page(1, 1)), Ok(PageState::Removed));
    assert_eq!(machine.state(page(1, 2)), Ok(PageState::Failed(failure())));
    assert_eq!(machine.pending(), 0);
    // Neither is fetched again, whatever the fault says.
    for settled in [page(0, 0), page(1, 1)] {
        assert_eq!(machine.handle_demand(settled), Ok(Admission::Taken));
        let effect = machine.poll_effect();
        assert!(matches!(effect, Some(Effect::Zero { page, .. }) if page == settled));
    }
    // Whoever can fault on a failed page has found no marker.
    assert_eq!(machine.handle_demand(page(1, 2)), Ok(Admission::Taken));
    let effect = machine.poll_effect();
    assert!(matches!(effect, Some(Effect::Unmark { .. })), "{effect:?}");
}

#[test]
fn a_failed_page_can_be_healed_after_a_restart() {
    let recorded = [RecordedPage::Failed(failure()); 5];
    let mut machine = Residency::restored(config(), &[PageCount::new(5)], recorded).unwrap();
    assert_eq!(machine.failed(), PageCount::new(5), "none is forgotten");
    assert_eq!(machine.handle_heal(page(0, 0), 5), Ok(5));
}

#[test]
fn a_record_of_another_memory_is_refused() {
    for pages in [2, 4] {
        let recorded = [RecordedPage::Present; 3];
        let refused = Residency::restored(config(), &[PageCount::new(pages)], recorded);
        let refused = refused.unwrap_err();
        assert!(matches!(refused, RestoreError::OtherMemory { .. }));
    }
}

fn sources() -> impl Strategy<Value = Vec<Source>> {
    let source = prop_oneof![
        5 => Just(Source::Healthy),
        1 => Just(Source::Permanent),
        1 => Just(Source::Stalled),
    ];
    prop::collection::vec(source, 4..9)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<u32>().prop_map(Step::Touch),
        3 => (any::<u32>(), 1u32..4).prop_map(|(first, count)| Step::Remove(first, count)),
        2 => any::<usize>().prop_map(Step::Zap),
        10 => Just(Step::Read),
        16 => any::<usize>().prop_map(Step::Work),
        6 => any::<usize>().prop_map(Step::Fetched),
        2 => (any::<u32>(), 1u32..5).prop_map(|(first, count)| Step::Prefetch(first, count)),
        1 => any::<usize>().prop_map(Step::Fire),
        2 => (0u8..3).prop_map(Step::Die),
    ];
    prop::collection::vec(step, 1..120)
}

/// Plays `cases` random worlds with the driver as it should be, or with a mistake in it. Says how
/// often a worker died between an intent and its record, or between a read and its note.
fn play(cases: u32, mistake: Option<Mistake>) -> Result<u32, String> {
    // The seed is fixed: a run that fails fails again.
    let config = Config {
        cases,
        failure_persistence: None,
        // That a mistake is caught is enough.
        max_shrink_iters: if mistake.is_some() { 0 } else { 10_000 },
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let deaths = Cell::new(0);
    TestRunner::new_with_rng(config, rng)
        .run(&(sources(), steps()), |(sources, steps)| {
            let mut world = World::new(self::config(), &sources, mistake);
            for step in steps {
                world.step(step).map_err(TestCaseError::fail)?;
            }
            world.drain().map_err(TestCaseError::fail)?;
            deaths.set(deaths.get() + world.deaths_in_gate);
            Ok(())
        })
        .map_err(|error| error.to_string())?;
    Ok(deaths.get())
}

#[test]
fn no_death_brings_old_data_back_or_loses_a_fault() {
    let deaths = play(1500, None).unwrap();
    assert!(deaths > 250, "only {deaths} deaths at a bad moment");
}

#[test]
fn every_mistake_of_a_driver_is_caught() {
    for mistake in Mistake::ALL {
        let caught = play(4000, Some(mistake)).expect_err("the mistake was not caught");
        println!("{mistake:?}: {}", caught.lines().next().unwrap_or_default());
    }
}

/// Found by a random world: a removal goes on after it was read, takes the zeros away that were put
/// in place for somebody else, and whoever touches the page then joins what is answered for next.
#[test]
fn zeros_that_are_taken_away_before_they_are_answered_for() {
    let read = [Step::Read; 4];
    let zero = [Step::Work(0); 3];
    let steps = [&[Step::Touch(0), Step::Remove(0, 1)], &read[..], &zero]
        .into_iter()
        .chain([&[Step::Zap(0), Step::Touch(0)], &read[..]])
        .flatten();
    for mistake in [None, Some(Mistake::ZeroWokenOnce)] {
        let mut world = World::new(config(), &[Source::Healthy; 2], mistake);
        for &step in steps.clone() {
            world.step(step).unwrap();
        }
        assert_eq!(world.drain().is_err(), mistake.is_some(), "{mistake:?}");
    }
}
