//! The watcher by itself: `watch [--pid PID] [--for SECONDS] [--once] [--json] [--metrics]
//! [--on-stuck CMD] [--stuck-after N] [--frozen-after SECONDS]`.
#![expect(unsafe_code, reason = "SIGINT and SIGTERM are noted by a handler")]

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use surefault_watch::{Change, Hook, Options, Pid, Watcher, metrics};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler: extern "C" fn(libc::c_int) = stop;
        // SAFETY: the handler does nothing but store into an atomic.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    let mut options = Options::default();
    let (mut limit, mut once, mut json, mut show_metrics) = (None, false, false, false);
    let mut hook = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--pid" => options.pid = Some(Pid::new(value()?.parse()?)),
            "--for" => limit = Some(Duration::from_secs_f64(value()?.parse()?)),
            "--stuck-after" => options.stuck_after = value()?.parse()?,
            "--frozen-after" => options.frozen_after = Duration::from_secs_f64(value()?.parse()?),
            "--on-stuck" => hook = Some(Hook::new(value()?)),
            "--once" => once = true,
            "--json" => json = true,
            "--metrics" => show_metrics = true,
            other => return Err(format!("{other}?").into()),
        }
    }
    let mut watcher = match Watcher::open(options) {
        Ok(watcher) => watcher,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(5));
        }
    };
    let started = Instant::now();
    let mut end = limit
        .or(once.then(|| watcher.settles_after()))
        .map(|d| started + d);
    let mut found = false;
    while !STOP.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        for change in watcher.step(Duration::from_secs(1))? {
            let at = started.elapsed().as_secs_f64();
            match change {
                Change::Began(case) => {
                    eprintln!("after {at:.3} s:\n{case}");
                    if let Some(hook) = &mut hook {
                        hook.run(&case)?;
                    }
                    if once && !found {
                        let soon = Instant::now() + Duration::from_secs(1);
                        end = end.map(|end| end.min(soon));
                    }
                    found = true;
                }
                Change::Ended(case) => {
                    eprintln!(
                        "after {at:.3} s: {} process {} ended",
                        case.word(),
                        case.pid()
                    );
                }
            }
        }
        if let Some(hook) = &mut hook {
            hook.tend()?;
        }
    }
    let snapshot = watcher.snapshot();
    if json {
        println!("{}", serde_json::to_string(&snapshot)?);
    } else {
        println!("{snapshot}");
    }
    if show_metrics {
        print!("{}", metrics::render(&snapshot));
    }
    Ok(ExitCode::from(if found { 3 } else { 0 }))
}
