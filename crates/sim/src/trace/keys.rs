//! The head of a trace: one key a line, each read and written in one place.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use surefault_core::faults::{FaultsConfig, Paging};
use surefault_core::plan::FailureMode;
use surefault_core::policy::PolicyKind;
use surefault_core::residency::ResidencyConfig;
use surefault_core::run::{ApfMode, TaskId};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{Gfn, PageCount, PageIndex, SlotId};

use crate::machine::Setup;
use crate::spec::{Host, OnReport};

/// A head that is being read.
pub(super) struct Head {
    pub(super) setup: Setup,
    pub(super) pages: PageCount,
    pub(super) tasks: Vec<Vec<Touch>>,
}

impl Head {
    /// What a trace is about that says nothing.
    pub(super) fn usual() -> Head {
        let none = Workload::new(PageCount::new(1), Vec::new());
        Head {
            setup: Setup {
                policy: PolicyKind::default(),
                host: Host::Surefault,
                apf: ApfMode::User,
                workload: none.expect("no task touches nothing"),
                faults: FaultsConfig {
                    error_word: true,
                    ..FaultsConfig::new(1)
                },
                residency: ResidencyConfig::default(),
                failing: Default::default(),
                intermittent: BTreeSet::new(),
                guest_apf: true,
                guest_reads_errors: true,
                kernel: BTreeSet::new(),
                irqs_off: BTreeSet::new(),
                migrate: false,
                keeps_record: true,
                records: false,
                on_report: OnReport::Stop,
                killed: BTreeSet::new(),
                acks_late: false,
                laps: 1,
                evicts: false,
                memslot: SlotId::new(1),
                first_gfn: crate::spec::FIRST_GFN,
            },
            pages: PageCount::new(1),
            tasks: Vec::new(),
        }
    }
}

/// A value that a key does not have: what it should have been.
pub(super) type Wrong = String;

/// A key of the head.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Takes the words after the name.
    pub(super) read: fn(&mut Head, &[&str]) -> Result<(), Wrong>,
    /// The words after the name, one line each.
    write: fn(&Setup) -> Vec<String>,
}

/// A key with one number.
macro_rules! number {
    ($name:literal, $($field:ident).+, $type:ty) => {
        Key {
            name: $name,
            read: |head, words| {
                head.setup.$($field).+ = one(words, "a number", |word| word.parse::<$type>().ok())?;
                Ok(())
            },
            write: |setup| vec![setup.$($field).+.to_string()],
        }
    };
}

/// A key with one word of a list.
macro_rules! word {
    ($name:literal, $($field:ident).+, $words:expr) => {
        Key {
            name: $name,
            read: |head, words| {
                head.setup.$($field).+ = choice(words, &$words)?;
                Ok(())
            },
            write: |setup| vec![spelled(&setup.$($field).+, &$words)],
        }
    };
}

/// A key with a set of pages.
macro_rules! pages {
    ($name:literal, $field:ident) => {
        Key {
            name: $name,
            read: |head, words| {
                head.setup.$field.extend(page_set(words)?);
                Ok(())
            },
            write: |setup| sets(&setup.$field),
        }
    };
}

/// How long a failure is remembered, where it is not for ever.
const FAILURE_TTL: Duration = Duration::from_secs(1);

const YES_NO: [(bool, &str); 2] = [(true, "yes"), (false, "no")];

/// All keys, in the order in which they are written.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "policy",
        read: |head, words| {
            head.setup.policy = one(words, PolicyKind::names(), |word| word.parse().ok())?;
            Ok(())
        },
        write: |setup| vec![setup.policy.to_string()],
    },
    word!(
        "host",
        host,
        [(Host::Surefault, "surefault"), (Host::LinuxAlone, "linux")]
    ),
    word!(
        "apf",
        apf,
        [
            (ApfMode::User, "user"),
            (ApfMode::Kernel, "kernel"),
            (ApfMode::Off, "off")
        ]
    ),
    word!(
        "paging",
        faults.paging,
        [(Paging::TwoDimensional, "tdp"), (Paging::Shadow, "shadow")]
    ),
    number!("vcpus", faults.vcpus, u16),
    Key {
        name: "pages",
        read: |head, words| {
            let expected = "a number of pages, 1 to 16777216";
            let fits = |&pages: &u64| (1..=1 << 24).contains(&pages);
            let pages = one(words, expected, |word| word.parse().ok().filter(fits))?;
            head.pages = PageCount::new(pages);
            Ok(())
        },
        write: |setup| vec![setup.workload.pages().get().to_string()],
    },
    Key {
        name: "task",
        read: read_task,
        write: |setup| {
            let lists = setup.workload.tasks().iter().enumerate();
            lists.map(|(task, list)| written_task(task, list)).collect()
        },
    },
    Key {
        name: "fail",
        read: |head, words| {
            let expected = "permanent, temporary=N, stall or truncate, and pages: 5 or 5,9-12";
            let (mode, pages) = words.split_first().ok_or(expected)?;
            let mode = failure_mode(mode).ok_or(expected)?;
            let pages = page_set(pages)?;
            head.setup
                .failing
                .extend(pages.into_iter().map(|page| (page, mode)));
            Ok(())
        },
        write: written_failures,
    },
    pages!("intermittent", intermittent),
    word!("guest-apf", guest_apf, YES_NO),
    Key {
        name: "guest-reads-errors",
        read: |head, words| {
            head.setup.guest_reads_errors = choice(words, &YES_NO)?;
            head.setup.faults.error_word = head.setup.guest_reads_errors;
            Ok(())
        },
        write: |setup| vec![spelled(&setup.guest_reads_errors, &YES_NO)],
    },
    pages!("kernel", kernel),
    pages!("irqs-off", irqs_off),
    word!("migrate", migrate, YES_NO),
    word!("record", keeps_record, YES_NO),
    word!("page-records", records, YES_NO),
    number!("attempts", residency.attempts, u8),
    Key {
        name: "failure-ttl",
        read: |head, words| {
            // How long it is matters to nobody here: the timer is a step.
            let ttl = choice(words, &YES_NO)?.then_some(FAILURE_TTL);
            head.setup.residency.failure_ttl = ttl;
            Ok(())
        },
        write: |setup| vec![spelled(&setup.residency.failure_ttl.is_some(), &YES_NO)],
    },
    word!(
        "on-report",
        on_report,
        [
            (OnReport::Stop, "stop"),
            (OnReport::Heal, "heal"),
            (OnReport::Wait, "wait")
        ]
    ),
    Key {
        name: "dies-when-woken",
        read: |head, words| {
            let task = |word: &str| word.parse().ok().map(TaskId::new);
            head.setup
                .killed
                .insert(one(words, "a task's number", task)?);
            Ok(())
        },
        write: |setup| setup.killed.iter().map(|task| task.to_string()).collect(),
    },
    word!("acks-late", acks_late, YES_NO),
    number!("laps", laps, u64),
    word!("evicts", evicts, YES_NO),
    Key {
        name: "first-gfn",
        read: |head, words| {
            head.setup.first_gfn = Gfn::new(one(words, "a number", |word| word.parse().ok())?);
            Ok(())
        },
        write: |setup| vec![setup.first_gfn.get().to_string()],
    },
    Key {
        name: "memslot",
        read: |head, words| {
            head.setup.memslot = SlotId::new(one(words, "a number", |word| word.parse().ok())?);
            Ok(())
        },
        write: |setup| vec![setup.memslot.get().to_string()],
    },
    number!("queue-cap", faults.queue_cap, u8),
    number!("gfn-slots", faults.gfn_slots, u8),
    number!("item-slots", faults.item_slots, u8),
    number!("token-id-bits", faults.token_id_bits, u8),
    number!("owed-slots", faults.owed_slots, u16),
    number!("observed-slots", faults.observed_slots, u16),
    number!("error-slots", faults.error_slots, u8),
    word!("hlt-in-guest", faults.hlt_in_guest, YES_NO),
    number!("max-range", residency.max_range, u32),
    number!("max-fetches", residency.max_fetches, usize),
    number!("max-pending", residency.max_pending, usize),
    number!("max-failures", residency.max_failures, usize),
];

/// The lines of a head: those keys that are not as usual, and what the machine is in any case.
pub(super) fn written(setup: &Setup) -> String {
    let usual = Head::usual().setup;
    let mut text = String::new();
    for key in KEYS {
        let lines = (key.write)(setup);
        let always = ["policy", "vcpus", "pages", "task"].contains(&key.name);
        if !always && lines == (key.write)(&usual) {
            continue;
        }
        for words in lines {
            let _ = writeln!(text, "{}", format!("{} {words}", key.name).trim_end());
        }
    }
    text
}

/// The one word after a key.
pub(super) fn one<T>(
    words: &[&str],
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, Wrong> {
    match words {
        [word] => read(word).ok_or_else(|| expected.to_owned()),
        _ => Err(expected.to_owned()),
    }
}

fn choice<T: Clone>(words: &[&str], choices: &[(T, &str)]) -> Result<T, Wrong> {
    let names: Vec<&str> = choices.iter().map(|(_, name)| *name).collect();
    one(words, &format!("one of {}", names.join(", ")), |word| {
        let found = choices.iter().find(|(_, name)| *name == word)?;
        Some(found.0.clone())
    })
}

fn spelled<T: PartialEq>(value: &T, choices: &[(T, &str)]) -> String {
    let found = choices.iter().find(|(choice, _)| choice == value);
    found.map_or_else(String::new, |(_, name)| (*name).to_owned())
}

/// `5,9-12`, as in `--fail`.
fn page_set(words: &[&str]) -> Result<Vec<PageIndex>, Wrong> {
    let expected = || "pages: 5 or 5,9-12".to_owned();
    let [word] = words else {
        return Err(expected());
    };
    let mut pages = Vec::new();
    for part in word.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last && last < 1 << 24 => (first, last),
            _ => return Err(expected()),
        };
        pages.extend((first..=last).map(PageIndex::new));
    }
    Ok(pages)
}

fn set<'a>(pages: impl IntoIterator<Item = &'a PageIndex>) -> Option<String> {
    let pages: Vec<u32> = pages.into_iter().map(|page| page.get()).collect();
    let runs = pages.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [only] => only.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    let runs: Vec<String> = runs.collect();
    (!runs.is_empty()).then(|| runs.join(","))
}

fn sets(pages: &BTreeSet<PageIndex>) -> Vec<String> {
    set(pages).into_iter().collect()
}

fn failure_mode(word: &str) -> Option<FailureMode> {
    Some(match word {
        "permanent" => FailureMode::Permanent,
        "stall" => FailureMode::Stall,
        "truncate" => FailureMode::Truncate,
        word => FailureMode::Temporary {
            failures: word.strip_prefix("temporary=")?.parse().ok()?,
        },
    })
}

fn written_failures(setup: &Setup) -> Vec<String> {
    let mut modes: Vec<FailureMode> = Vec::new();
    for &mode in setup.failing.values() {
        if !modes.contains(&mode) && mode != FailureMode::Healthy {
            modes.push(mode);
        }
    }
    let pages = |mode| {
        let of = setup
            .failing
            .iter()
            .filter(move |&(_, &other)| other == mode);
        set(of.map(|(page, _)| page))
    };
    let line = |mode| Some(format!("{mode} {}", pages(mode)?));
    modes.into_iter().filter_map(line).collect()
}

fn read_task(head: &mut Head, words: &[&str]) -> Result<(), Wrong> {
    let expected = "a task's number, counted from 0 without a gap, and the pages that it touches: \
                    5 (reads), 5w (writes), 5c (calls)";
    let (id, touches) = words.split_first().ok_or(expected)?;
    if id.parse() != Ok(head.tasks.len()) || head.tasks.len() >= usize::from(u16::MAX) {
        return Err(expected.to_owned());
    }
    let touch = |word: &&str| {
        let (digits, first) = match word.strip_suffix(['w', 'c']) {
            Some(digits) if word.ends_with('w') => (digits, FirstTouch::Write),
            Some(digits) => (digits, FirstTouch::Call),
            None => (*word, FirstTouch::Read),
        };
        let page = PageIndex::new(digits.parse().ok()?);
        Some(Touch { page, first })
    };
    let list: Option<Vec<Touch>> = touches.iter().map(touch).collect();
    head.tasks.push(list.ok_or(expected)?);
    Ok(())
}

fn written_task(task: usize, list: &[Touch]) -> String {
    let mut line = task.to_string();
    for touch in list {
        let first = match touch.first {
            FirstTouch::Read => "",
            FirstTouch::Write => "w",
            FirstTouch::Call => "c",
        };
        let _ = write!(line, " {}{first}", touch.page);
    }
    line
}
