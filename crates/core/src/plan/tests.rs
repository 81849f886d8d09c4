use super::*;

fn plan(specs: &[&str]) -> FaultPlan {
    let mut plan = FaultPlan::new(7, Latency::default());
    for spec in specs {
        plan.push(spec.parse().unwrap());
    }
    plan
}

fn page(n: u32) -> PageIndex {
    PageIndex::new(n)
}

#[test]
fn pages_and_ranges_fail_as_written() {
    let plan = plan(&["5,9-12", "20:temporary=2", "30:stall", "31:truncate"]);
    let result = |n, attempt| plan.decide(page(n), attempt).result;
    for healthy in [0, 4, 6, 8, 13, 19] {
        assert_eq!(result(healthy, 1), PlannedResult::Serve, "{healthy}");
    }
    for failing in [5, 9, 10, 11, 12] {
        assert_eq!(
            result(failing, 200),
            PlannedResult::Fail(Persistence::Permanent)
        );
    }
    assert_eq!(result(20, 2), PlannedResult::Fail(Persistence::Temporary));
    assert_eq!(result(20, 3), PlannedResult::Serve);
    assert_eq!(result(30, 1), PlannedResult::Stall);
    assert_eq!(result(31, 1), PlannedResult::Truncate);
}

#[test]
fn the_first_matching_rule_decides() {
    let plan = plan(&["1:stall", "0-9:permanent"]);
    assert_eq!(plan.mode_of(page(1)), FailureMode::Stall);
    assert_eq!(plan.mode_of(page(2)), FailureMode::Permanent);
}

#[test]
fn random_pages_are_chosen_by_seed_and_about_as_often_as_asked() {
    let chosen = |seed| {
        let mut plan = FaultPlan::new(seed, Latency::default());
        plan.push("p=0.1".parse().unwrap());
        (0..10_000)
            .filter(|&n| plan.mode_of(page(n)) != FailureMode::Healthy)
            .collect::<Vec<_>>()
    };
    assert_eq!(chosen(1), chosen(1));
    assert_ne!(chosen(1), chosen(2));
    assert!(
        (800..1200).contains(&chosen(1).len()),
        "{}",
        chosen(1).len()
    );
    let all = plan(&["p=1"]);
    assert!((0..1000).all(|n| all.mode_of(page(n)) == FailureMode::Permanent));
}

#[test]
fn latencies_stay_within_their_bounds() {
    let latency: Latency = "20us..5ms".parse().unwrap();
    let plan = FaultPlan::new(3, latency);
    let taken: Vec<_> = (0..1000).map(|n| plan.decide(page(n), 1).latency).collect();
    let (low, high) = (Duration::from_micros(20), Duration::from_millis(5));
    assert!(taken.iter().all(|&d| (low..=high).contains(&d)));
    assert!(taken.iter().any(|&d| d < high / 4) && taken.iter().any(|&d| d > high / 4 * 3));
}

#[test]
fn what_is_not_understood_is_named() {
    for (spec, error) in [
        ("", ParsePlanError::Pages(String::new())),
        ("x", ParsePlanError::Pages("x".into())),
        ("5,-3", ParsePlanError::Pages("-3".into())),
        ("4294967296", ParsePlanError::Pages("4294967296".into())),
        ("9-5", ParsePlanError::BackwardRange("9-5".into())),
        ("p=1.5", ParsePlanError::Probability("1.5".into())),
        ("p=nan", ParsePlanError::Probability("nan".into())),
        ("5:sometimes", ParsePlanError::Mode("sometimes".into())),
        ("5:temporary=0", ParsePlanError::Mode("temporary=0".into())),
        (
            "5:temporary=256",
            ParsePlanError::Mode("temporary=256".into()),
        ),
    ] {
        assert_eq!(spec.parse::<Rule>(), Err(error), "{spec}");
    }
    for bad in ["", "5", "ms", "-1ms", "1h", "1e30s", "inf s"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
    assert_eq!(parse_duration("1.5ms"), Ok(Duration::from_micros(1500)));
    assert!("5ms..1ms".parse::<Latency>().is_err());
}
