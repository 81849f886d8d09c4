//! Machines in the loop.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use surefault_core::Hva;
use surefault_watch::{CauseKind, Change, Options, Pid, Stuck, Watcher};

use crate::subject::{BAD, Kind, PAGE, PAGES, Subject};
use crate::vm::DATA;
use crate::{Case, Need, is_healthy, step, until_it_ends, watch};

const KVM: &[Need] = &[Need::Kvm, Need::Root];
const KVM_AND_UFFD: &[Need] = &[Need::Kvm, Need::Root, Need::Uffd];

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a_truncated_memfd_is_explained",
        needs: KVM,
        run: a_truncated_memfd_is_explained,
    },
    Case {
        name: "a_file_truncated_under_a_running_vm_is_explained",
        needs: KVM,
        run: a_file_truncated_under_a_running_vm_is_explained,
    },
    Case {
        name: "three_at_once_are_told_apart",
        needs: KVM,
        run: three_at_once_are_told_apart,
    },
    Case {
        name: "a_full_file_system_is_explained",
        needs: KVM,
        run: a_full_file_system_is_explained,
    },
    Case {
        name: "an_exhausted_pool_of_huge_pages_is_explained",
        needs: KVM,
        run: an_exhausted_pool_of_huge_pages_is_explained,
    },
    Case {
        name: "a_failing_userfaultfd_is_explained",
        needs: KVM_AND_UFFD,
        run: a_failing_userfaultfd_is_explained,
    },
    Case {
        name: "healthy_faults_raise_no_alarm",
        needs: KVM_AND_UFFD,
        run: healthy_faults_raise_no_alarm,
    },
    Case {
        name: "one_process_alone_can_be_watched",
        needs: KVM,
        run: one_process_alone_can_be_watched,
    },
];

fn open() -> Watcher {
    Watcher::open(Options::default()).expect("watch")
}

/// Watches until all of these are stuck.
fn find(watcher: &mut Watcher, subjects: &[&Subject]) -> Vec<Stuck> {
    let pids: Vec<u32> = subjects.iter().map(|subject| subject.pid()).collect();
    let is_stuck =
        |change: &&Change| matches!(change, Change::Began(surefault_watch::Case::Stuck(_)));
    watch(watcher, &pids, |changes| {
        changes.iter().filter(is_stuck).count() >= pids.len()
    });
    let mut stuck = watcher.snapshot().stuck;
    stuck.retain(|stuck| pids.contains(&stuck.pid.get()));
    assert_eq!(stuck.len(), pids.len());
    stuck.sort_by_key(|stuck| pids.iter().position(|pid| *pid == stuck.pid.get()));
    stuck
}

/// Asserts that it is the bad page of `subject`, page `index` of its data.
fn is_page_of(stuck: &Stuck, subject: &Subject, index: usize) {
    let offset = (index * PAGE) as u64;
    assert_eq!(stuck.pid, Pid::new(subject.pid()));
    assert_eq!(stuck.tid.get(), subject.pid(), "its one thread is the vCPU");
    assert_eq!(stuck.gfn.get(), (DATA + offset) >> 12);
    assert_eq!(stuck.gva.get(), DATA + offset);
    assert_eq!(stuck.hva, Some(Hva::new(subject.data + offset)));
    assert_eq!(stuck.vcpu.map(|vcpu| vcpu.get()), Some(0));
    assert!(stuck.retries >= 100, "{}", stuck.retries);
}

fn a_truncated_memfd_is_explained() {
    let mut subject = Subject::start(Kind::TruncatedMemfd);
    let mut watcher = open();
    let started = Instant::now();
    let found = find(&mut watcher, &[&subject]);
    println!("found after {:?}", started.elapsed());
    let stuck = &found[0];
    is_page_of(stuck, &subject, BAD);
    assert_eq!(stuck.cause.kind, CauseKind::Truncated);
    let sizes = format!("has {} bytes", BAD * PAGE);
    assert!(stuck.cause.text.contains(&sizes), "{}", stuck.cause.text);
    assert!(stuck.cause.text.contains(&(PAGES * PAGE).to_string()));
    assert_eq!(stuck.offset, Some((BAD * PAGE) as u64));
    // What the remedy names can be acted upon.
    let path = stuck.path.as_ref().expect("a path");
    let file = File::options().write(true).open(path).expect("open");
    file.set_len((PAGES * PAGE) as u64).expect("extend");
    until_it_ends(&mut watcher, subject.pid());
    file.set_len(0).expect("truncate");
    find(&mut watcher, &[&subject]);
    subject.kill();
    until_it_ends(&mut watcher, subject.pid());
}

fn a_file_truncated_under_a_running_vm_is_explained() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&[3; PAGES * PAGE]).expect("write");
    let path = file.path().to_str().expect("a path").to_owned();
    let subject = Subject::start_with(Kind::File, &path);
    let mut watcher = open();
    assert_eq!(step(&mut watcher, &[subject.pid()]), []);
    file.as_file()
        .set_len((BAD * PAGE + 10) as u64)
        .expect("truncate");
    let found = find(&mut watcher, &[&subject]);
    // The page that the file's end lies in can be had.
    is_page_of(&found[0], &subject, BAD + 1);
    assert_eq!(found[0].cause.kind, CauseKind::Truncated);
    assert_eq!(found[0].path.as_deref(), Some(path.as_str()));
    let remedy = format!("truncate -s {} '{path}'", PAGES * PAGE);
    assert!(
        found[0].cause.remedy.contains(&remedy),
        "{}",
        found[0].cause.remedy
    );
}

fn three_at_once_are_told_apart() {
    let mut subjects: Vec<Subject> = (0..3)
        .map(|_| Subject::start(Kind::TruncatedMemfd))
        .collect();
    let mut watcher = open();
    let started = Instant::now();
    let found = find(&mut watcher, &subjects.iter().collect::<Vec<_>>());
    println!("found after {:?}", started.elapsed());
    for (stuck, subject) in found.iter().zip(&subjects) {
        is_page_of(stuck, subject, BAD);
        assert_eq!(stuck.cause.kind, CauseKind::Truncated);
    }
    subjects[1].kill();
    until_it_ends(&mut watcher, subjects[1].pid());
    assert!(!is_healthy(&watcher, subjects[0].pid()));
    assert!(!is_healthy(&watcher, subjects[2].pid()));
}

fn a_full_file_system_is_explained() {
    let subject = Subject::start(Kind::Full);
    let found = find(&mut open(), &[&subject]);
    is_page_of(&found[0], &subject, BAD);
    assert_eq!(found[0].cause.kind, CauseKind::NoSpace, "{}", found[0]);
}

fn an_exhausted_pool_of_huge_pages_is_explained() {
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = std::fs::read_to_string(pool).unwrap_or_default();
    if free.trim() != "0" {
        println!("skipped: the pool has {} free pages", free.trim());
        return;
    }
    let subject = Subject::start(Kind::Hugetlb);
    let found = find(&mut open(), &[&subject]);
    is_page_of(&found[0], &subject, 0);
    assert_eq!(
        found[0].cause.kind,
        CauseKind::HugetlbExhausted,
        "{}",
        found[0]
    );
}

fn a_failing_userfaultfd_is_explained() {
    let subject = Subject::start(Kind::FailingUserfaultfd);
    let found = find(&mut open(), &[&subject]);
    is_page_of(&found[0], &subject, 0);
    assert_eq!(found[0].cause.kind, CauseKind::Userfaultfd, "{}", found[0]);
    let holder = format!("process {}", subject.pid());
    assert!(found[0].cause.text.contains(&holder), "{}", found[0]);
}

fn healthy_faults_raise_no_alarm() {
    let subjects = [Subject::start(Kind::Healthy), Subject::start(Kind::Healthy)];
    let pids = subjects.each_ref().map(Subject::pid);
    let mut watcher = open();
    let end = Instant::now() + crate::PATIENCE;
    let mut remembered = 0;
    while watcher.snapshot().stats.events < 100_000 {
        assert!(Instant::now() < end, "{}", watcher.snapshot());
        assert_eq!(step(&mut watcher, &pids), []);
        remembered = remembered.max(watcher.snapshot().stats.remembered_pages);
    }
    // Those of two machines, and room for another's.
    assert!(remembered <= 3 * 4096, "{remembered} pages");
    println!("{}", watcher.snapshot());
}

fn one_process_alone_can_be_watched() {
    let watched = Subject::start(Kind::TruncatedMemfd);
    let other = Subject::start(Kind::TruncatedMemfd);
    let options = Options {
        pid: Some(Pid::new(watched.pid())),
        ..Options::default()
    };
    let mut watcher = Watcher::open(options).expect("watch");
    let found = find(&mut watcher, &[&watched]);
    is_page_of(&found[0], &watched, BAD);
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        assert_eq!(watcher.step(Duration::from_secs(1)).expect("step"), []);
    }
    assert!(is_healthy(&watcher, other.pid()));
}
