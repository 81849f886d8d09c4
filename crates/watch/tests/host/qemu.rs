//! A machine that is not ours: QEMU, with its guest's memory in a file that is cut off under it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use surefault_watch::{CauseKind, Change, Options, Watcher};

use crate::{Case, Need, PATIENCE, step, until_it_ends, watch};

pub(crate) const CASES: &[Case] = &[Case {
    name: "a_file_truncated_under_qemu_is_explained",
    needs: &[Need::Kvm, Need::Root, Need::Qemu],
    run: a_file_truncated_under_qemu_is_explained,
}];

pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

const MEMORY: u64 = 64 << 20;
/// In the middle of what the guest reads.
const CUT: u64 = 40 << 20;

core::arch::global_asm!(include_str!("boot_sector.s"), options(att_syntax));

// SAFETY: a symbol of the assembly above: 512 bytes that are never written.
unsafe extern "C" {
    safe static surefault_boot_sector: [u8; 512];
}

/// QEMU, killed when this is dropped.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &Path) -> Qemu {
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(path("disk"), surefault_boot_sector).expect("write the disk");
    let memory = File::create(path("memory")).expect("create");
    memory.set_len(MEMORY).expect("set length");
    let backend = format!(
        "memory-backend-file,id=m,share=on,size={MEMORY},mem-path={}",
        path("memory")
    );
    let child = Command::new(PROGRAM)
        .args([
            "-accel",
            "kvm",
            "-machine",
            "pc,memory-backend=m",
            "-m",
            "64M",
        ])
        .args([
            "-object",
            &backend,
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-name", "surefault-test,debug-threads=on"])
        .args(["-serial", &format!("file:{}", path("serial"))])
        .args([
            "-drive",
            &format!("file={},format=raw,if=ide", path("disk")),
        ])
        .stderr(Stdio::null())
        .spawn();
    Qemu(child.expect("spawn"))
}

/// Waits until the guest has said `n` bytes more on its serial line.
fn wait_for(serial: &Path, n: u64) {
    let said = || fs::metadata(serial).map_or(0, |metadata| metadata.len());
    let (start, end) = (said(), Instant::now() + PATIENCE);
    while said() < start + n {
        assert!(Instant::now() < end, "the guest goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_file_truncated_under_qemu_is_explained() {
    let directory = tempfile::tempdir().expect("a directory");
    let serial = directory.path().join("serial");
    let memory = directory.path().join("memory");
    let qemu = start(directory.path());
    let pid = qemu.0.id();
    let mut watcher = Watcher::open(Options::default()).expect("watch");
    wait_for(&serial, 3);
    assert_eq!(step(&mut watcher, &[pid]), []);
    let file = File::options().write(true).open(&memory).expect("open");
    file.set_len(CUT).expect("truncate");
    let began = |change: &Change| match change {
        Change::Began(surefault_watch::Case::Stuck(stuck)) => Some(stuck.clone()),
        Change::Began(_) | Change::Ended(_) => None,
    };
    let changes = watch(&mut watcher, &[pid], |changes| {
        changes.iter().any(|change| began(change).is_some())
    });
    let stuck = changes.iter().find_map(began).expect("found");
    println!("{stuck}");
    assert_eq!(stuck.gfn.get(), CUT >> 12);
    assert_eq!(stuck.comm, "CPU 0/KVM");
    assert_eq!(stuck.vcpu.map(|vcpu| vcpu.get()), Some(0));
    assert_eq!(stuck.cause.kind, CauseKind::Truncated);
    assert_eq!(stuck.path.as_deref(), memory.to_str());
    assert_eq!(stuck.offset, Some(CUT));
    // What the remedy says is done, and the guest goes on.
    file.set_len(MEMORY).expect("extend");
    until_it_ends(&mut watcher, pid);
    wait_for(&serial, 2);
}
