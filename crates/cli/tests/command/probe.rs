//! What is said of hosts that have everything, and of such that do not.

use std::process::Command;

use serde_json::Value;

use crate::surefault::{BINARY, output};

crate::cases![
    this_host_is_probed(Guest),
    a_host_where_nothing_works(RootAndGuest),
];

fn this_host_is_probed() {
    let mut command = Command::new(BINARY);
    let found = output(command.args(["probe", "--format", "json"])).ended(0);
    let found = found.json();
    assert_eq!(found["outcome"], "works");
    assert!(found["kvm"].is_object(), "{found}");
    let apf = |name: &str| {
        let modes = found["modes"].as_array().expect("modes").iter();
        let mut named = modes.filter(|mode| mode["apf"] == name);
        named.next().expect("a mode").clone()
    };
    assert_eq!(apf("off")["works"], true, "{found}");
    let words = output(Command::new(BINARY).arg("probe")).ended(0);
    assert!(
        words.stdout.contains("--apf off     works"),
        "{}",
        words.stdout
    );
    assert_eq!(words.stderr, "");
}

/// In a mount namespace of its own, with an empty /dev.
fn a_host_where_nothing_works() {
    let probe = |format: &str| {
        let script = format!("mount -t tmpfs none /dev && exec \"$0\" probe --format {format}");
        let mut command = Command::new("unshare");
        output(command.args(["--mount", "sh", "-c", &script, BINARY])).ended(5)
    };
    let words = probe("text").stdout;
    for wanted in [
        "/dev/kvm does not exist",
        "what to do: load it",
        "--machine sim",
    ] {
        assert!(words.contains(wanted), "'{wanted}': {words}");
    }
    let found = probe("json").json();
    assert_eq!(found["outcome"], "nothing-works");
    assert_eq!(found["kvm"], Value::Null);
    assert_eq!(found["problems"][0]["of"], "kvm");
}
