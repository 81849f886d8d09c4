//! What the tests that need a kernel share: mappings, skips that are seen, patience.

mod memory;

use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::Trial;

pub use memory::{BACKINGS, Backing, Mapping, bytes, nowhere, page_size};

/// How long a test waits for what must happen: never for how fast.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test. When something is `lacking` it is skipped with that reason on screen, or fails if
/// `SUREFAULT_REQUIRE` (a comma list) names `needs`.
pub fn trial(name: &str, needs: &str, lacking: Option<String>, run: fn()) -> Trial {
    let required = std::env::var("SUREFAULT_REQUIRE")
        .is_ok_and(|required| required.split(',').any(|word| word == needs));
    match lacking {
        None => Trial::test(name, move || {
            run();
            Ok(())
        }),
        Some(reason) if required => {
            Trial::test(name, move || Err(format!("required: {reason}").into()))
        }
        Some(reason) => Trial::test(name, || Ok(()))
            .with_kind(format!("skipped: {reason}"))
            .with_ignored_flag(true),
    }
}

/// Runs `body` in a thread and gives its result, or panics when it never ends.
pub fn in_thread<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> impl FnOnce() -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(body());
    });
    move || receiver.recv_timeout(PATIENCE).expect("the thread ends")
}
