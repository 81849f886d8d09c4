//! Prints the async page faults of this host's virtual machines, and what reading them costs:
//! `async_faults SECONDS [--quiet]`.

use std::error::Error;
use std::time::{Duration, Instant};

use surefault_trace::{Session, SessionOptions, Wanted};

const fn event(event: &'static str, fields: &'static [&'static str]) -> Wanted {
    Wanted {
        system: "kvm",
        event,
        fields,
        required: true,
    }
}

const EVENTS: [Wanted; 4] = [
    event("kvm_try_async_get_page", &["gva", "gfn"]),
    event("kvm_async_pf_not_present", &["token", "gva"]),
    event("kvm_async_pf_ready", &["token", "gva"]),
    event("kvm_async_pf_completed", &["address", "gva"]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(5), |n| n.parse())?;
    let quiet = arguments.next().is_some();
    let mut session = Session::open(&EVENTS, SessionOptions::default())?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut records, mut total, mut lost) = (Vec::new(), 0, 0);
    while Instant::now() < end {
        session.wait(Duration::from_millis(100))?;
        records.clear();
        lost += session.drain(&mut records)?.lost;
        total += records.len();
        for record in records.iter().filter(|_| !quiet) {
            println!(
                "{:>12} us  cpu {:<3} tid {:<7} {:<26} {:#x} {:#x}",
                record.time / 1000,
                record.cpu,
                record.tid,
                EVENTS[usize::from(record.event)].event,
                record.fields[0],
                record.fields[1],
            );
        }
    }
    println!("{total} events, {lost} lost");
    Ok(())
}
