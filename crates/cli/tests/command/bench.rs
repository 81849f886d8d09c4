//! `surefault bench serve`: everybody serves every page, and it is said how fast.

use std::process::Command;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    all_handlers_are_measured(Uffd),
    a_directory_that_is_not_there(Nothing),
    no_pages(Nothing),
];

fn bench(arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    output(command.args(["bench", "serve"]).args(arguments))
}

fn all_handlers_are_measured() {
    let ran = bench(&[
        "--pages=600",
        "--threads=1,2",
        "--rounds=2",
        "--format=json",
    ]);
    let json = ran.ended(0).json();
    let rows = json["rows"].as_array().expect("rows");
    let handlers: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().expect("a word").to_owned();
            for rate in ["min", "median", "max"] {
                assert!(row["pages_per_second"][rate].as_f64() > Some(0.0), "{row}");
            }
            assert!(row["p50_ns"]["median"].as_f64() <= row["p99_ns"]["median"].as_f64());
            (text("order"), row["threads"].as_u64(), text("handler"))
        })
        .collect();
    let mut expected = Vec::new();
    for (order, names) in [
        ("random", &["floor", "surefault"][..]),
        ("sequential", &["floor", "ceiling", "surefault"]),
    ] {
        for threads in [1, 2] {
            for name in names {
                expected.push((order.to_owned(), Some(threads), (*name).to_owned()));
            }
        }
    }
    assert_eq!(handlers, expected);
}

fn a_directory_that_is_not_there() {
    bench(&["--dir=/nowhere/at/all"]).refused(2, &["--dir", "/nowhere/at/all"]);
}

fn no_pages() {
    bench(&["--pages=0"]).refused(2, &["--pages"]);
}
