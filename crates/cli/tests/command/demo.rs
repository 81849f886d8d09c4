//! The story, on each machine.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    the_story_on_the_simulated_machine(Nothing),
    the_story_on_kvm(Guest),
    the_story_in_words(Nothing),
    the_story_without_kvm(RootAndGuest),
];

fn demo(arguments: &[&str]) -> Ran {
    output(Command::new(BINARY).arg("demo").args(arguments))
}

fn assert_as_told(machine: &str, modes: &[&str]) {
    let begun = Instant::now();
    let choice = match machine {
        "simulated" => "sim",
        machine => machine,
    };
    let ran = demo(&["--machine", choice, "--format", "json"]);
    // Ten seconds where nothing else runs.
    assert!(begun.elapsed() < Duration::from_secs(60));
    let story = ran.ended(0).json();
    assert_eq!(story["machine"], machine);
    assert_eq!(story["outcome"], "as-told");
    let steps = story["steps"].as_array().expect("steps");
    let names: Vec<&str> = steps
        .iter()
        .map(|step| step["name"].as_str().expect("a name"))
        .collect();
    let of = |who: &str| {
        modes
            .iter()
            .map(move |mode| format!("{who}-{mode}"))
            .collect()
    };
    let wanted: [Vec<String>; 4] = [
        vec!["linux-off".to_owned(), "linux-kernel".to_owned()],
        of("surefault"),
        of("repaired"),
        vec!["told-kernel".to_owned()],
    ];
    assert_eq!(names, wanted.concat());

    let step = |name: &str| -> &Value {
        let place = names.iter().position(|other| *other == name);
        &steps[place.expect("a step")]
    };
    assert_eq!(step("linux-off")["report"]["cause"]["kind"], "bad-address");
    assert_eq!(step("linux-kernel")["outcome"], "looped");
    let told = &step("told-kernel")["stats"];
    assert_eq!(
        (&told["tasks_killed"], &told["tasks_finished"]),
        (&1.into(), &1.into())
    );
    for mode in modes {
        let reported = step(&format!("surefault-{mode}"));
        assert_eq!(reported["report"]["page"], 63);
        assert_eq!(reported["report"], step("surefault-off")["report"]);
        let repaired = step(&format!("repaired-{mode}"));
        assert_eq!(repaired["outcome"], "finished");
        assert_eq!(repaired["stats"]["healed"], 1);
        assert_eq!(repaired["stats"]["pages_done"], 64);
    }
}

fn the_story_on_the_simulated_machine() {
    assert_as_told("simulated", &["off", "kernel", "user"]);
}

fn the_story_on_kvm() {
    assert_as_told("kvm", &crate::run::modes());
}

fn the_story_in_words() {
    let ran = demo(&["--machine", "sim"]).ended(0);
    assert!(
        ran.stdout.starts_with("machine: simulated, "),
        "{}",
        ran.stdout
    );
    for words in [
        "\n1. Linux alone, ",
        "\"Bad address\"",
        "for ever",
        "page 63 cannot be provided: ",
        "  access  ",
        "The same report, field by field.",
        "The guest has finished",
        "The guest lives: 1 task killed by it, 1 task finished.",
        "\nThe story went as told, in ",
    ] {
        assert!(ran.stdout.contains(words), "'{words}': {}", ran.stdout);
    }
    assert_eq!(ran.stderr, "");
}

/// In a mount namespace of its own, with an empty /dev.
fn the_story_without_kvm() {
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$0\" demo";
    command.args(["--mount", "sh", "-c", script, BINARY]);
    let ran = output(&mut command).ended(0);
    assert!(
        ran.stdout.starts_with("machine: simulated, "),
        "{}",
        ran.stdout
    );
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$0\" demo --machine kvm";
    command.args(["--mount", "sh", "-c", script, BINARY]);
    let ran = output(&mut command);
    assert_eq!(ran.stdout, "");
    ran.refused(5, &["/dev/kvm does not exist", "what to do"]);
}
