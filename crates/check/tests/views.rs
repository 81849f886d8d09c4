//! What every verdict rests on: worlds with equal views can do the same, with equal views afterwards.
//!
//! Random walks meet in a view while they differ in what it drops: numbers of tokens and generations,
//! places of items, counters. Then both must have the same steps, and each step must lead to equal
//! views and equal hashes of them.

use std::collections::HashMap;
use std::sync::Arc;

use surefault_check::system::Config;
use surefault_core::faults::Paging;
use surefault_core::plan::mix;
use surefault_core::policy::{AnyPolicy, PolicyKind};
use surefault_sim::world::{Budgets, View, World};

struct Walks {
    seen: HashMap<View<AnyPolicy>, World<AnyPolicy>>,
    /// Views by their hash.
    hashes: HashMap<u64, View<AnyPolicy>>,
    met: usize,
    differed: usize,
}

impl Walks {
    /// Notes where a walk has come. If another was there before it, both are compared.
    fn meet(&mut self, world: &World<AnyPolicy>) {
        let (view, hash) = (world.view(), world.hash_view());
        let known = self.hashes.entry(hash).or_insert_with(|| view.clone());
        assert_eq!(*known, view, "a hash of two views");
        let Some(other) = self.seen.get(&view) else {
            self.seen.insert(view, world.clone());
            return;
        };
        assert_eq!(other.hash_view(), hash, "two hashes of a view");
        self.met += 1;
        let differs = format!("{:?}", other.machine()) != format!("{:?}", world.machine());
        self.differed += usize::from(differs);
        let steps = |world: &World<AnyPolicy>| {
            let mut steps = Vec::new();
            world.steps(&mut steps);
            steps
        };
        assert_eq!(steps(other), steps(world));
        for step in steps(world) {
            let (mut a, mut b) = (other.clone(), world.clone());
            a.advance(&step);
            b.advance(&step);
            assert_eq!(a.view(), b.view(), "after {step}");
            assert_eq!(a.hash_view(), b.hash_view(), "after {step}");
        }
    }
}

#[test]
fn equal_views_have_equal_steps_and_equal_successors() {
    let mut differed = 0;
    for (seed, &policy) in (0u64..).zip(PolicyKind::ALL) {
        for paging in [Paging::TwoDimensional, Paging::Shadow] {
            let config = Config {
                paging,
                touches: 2,
                budgets: Budgets {
                    deaths: u8::from(policy == PolicyKind::Exact),
                    ..Config::ONE_OF_EACH
                },
                ..Config::two_vcpus(policy)
            };
            let setup = Arc::new(config.setup().expect("a configuration"));
            let mut walks = Walks {
                seen: HashMap::new(),
                hashes: HashMap::new(),
                met: 0,
                differed: 0,
            };
            for walk in 0..40u64 {
                let world = World::new(Arc::clone(&setup), config.budgets);
                let mut world = world.expect("a setup");
                for at in 0..60u64 {
                    let mut steps = Vec::new();
                    world.steps(&mut steps);
                    let draw = mix(seed ^ mix(walk ^ mix(at)));
                    let Some(step) = steps.get(draw as usize % steps.len().max(1)) else {
                        break;
                    };
                    world.advance(step);
                    walks.meet(&world);
                }
            }
            assert!(walks.met > 100, "{policy}: walks met {} times", walks.met);
            differed += walks.differed;
        }
    }
    assert!(differed > 100, "they differed {differed} times");
    println!("met in a view and differed in the rest: {differed} times");
}
