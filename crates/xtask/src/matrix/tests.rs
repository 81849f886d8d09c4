use super::*;
use crate::protocol::Transcript;

fn cases() -> Vec<Case> {
    ["one", "two", "three"]
        .map(|name| Case::parse(name, "about = \"x\"\nrun = \"surefault\"\nlimit_s = 1\n").unwrap())
        .into()
}

fn boot(lines: &[&str], failure: Option<&str>) -> Boot {
    let mut transcript = Transcript::new();
    for line in lines {
        transcript.handle_line(line).unwrap();
    }
    Boot {
        heard: Heard {
            transcript,
            failure: failure.map(str::to_owned),
            up_after: None,
        },
        console: String::new(),
    }
}

const UP: &str = "@matrix up release=6.1";
const ONE: [&str; 3] = [
    UP,
    "@matrix begin one",
    "@matrix end one exit=0 wall_ms=1 user_s=0 system_s=0",
];

fn names(boot: &Boot) -> (Vec<(String, bool)>, Vec<String>) {
    let cases = cases();
    let (outcomes, left) = judge_boot("6.1", &cases.iter().collect::<Vec<_>>(), boot);
    (
        outcomes
            .into_iter()
            .map(|o| (o.case.clone(), o.failed()))
            .collect(),
        left.into_iter().map(|c| c.name.clone()).collect(),
    )
}

#[test]
fn a_hanging_case_fails_and_the_ones_after_it_get_another_boot() {
    let mut lines = ONE.to_vec();
    lines.extend(["@matrix begin two", "! about to hang"]);
    let boot = boot(&lines, Some("hang"));
    let (ended, left) = names(&boot);
    assert_eq!(ended, [("one".into(), false), ("two".into(), true)]);
    assert_eq!(left, ["three"]);
    let cases = cases();
    let (outcomes, _) = judge_boot("6.1", &cases.iter().collect::<Vec<_>>(), &boot);
    let text = format!("{:?}", outcomes[1].verdict);
    assert!(text.contains("hang; it said last: about to hang"), "{text}");
}

#[test]
fn a_kernel_that_does_not_come_up_fails_every_case_at_once() {
    let (ended, left) = names(&boot(&[], Some("the kernel died")));
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|(_, failed)| *failed));
    assert!(left.is_empty());
}

#[test]
fn a_case_that_was_left_out_has_failed() {
    let mut lines = ONE.to_vec();
    lines.push("@matrix done");
    let (ended, left) = names(&boot(&lines, None));
    assert_eq!(
        ended,
        [
            ("one".into(), false),
            ("two".into(), true),
            ("three".into(), true)
        ]
    );
    assert!(left.is_empty());
}
