//! Hosts that lack something: exit 5, and what to do about it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use surefault_testkit::page_size;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    no_kvm(RootAndGuest),
    no_kvm_and_nothing_real_asked_for(RootAndGuest),
    kvm_for_others_only(RootAndGuest),
    no_permission_to_serve_faults(Restricted),
];

/// The command where everybody can execute it, for as long as the directory lives.
pub(crate) fn for_everybody() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), all).expect("chmod");
    let binary = directory.path().join("surefault");
    std::fs::copy(BINARY, &binary).expect("copy");
    (directory, binary)
}

/// In a mount namespace of its own, with an empty /dev.
fn without_kvm(arguments: &str) -> Ran {
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs none /dev && exec \"$0\" run --pages 8 {arguments}");
    output(command.args(["--mount", "sh", "-c", &script, BINARY]))
}

fn no_kvm() {
    let ran = without_kvm("--machine kvm");
    assert_eq!(ran.stdout, "");
    ran.refused(5, &["/dev/kvm does not exist", "what to do: load it"]);
    // A real source is not replaced by a simulated one.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let len = 8 * page_size() as u64;
    file.as_file().set_len(len).expect("set_len");
    let store = format!("--store {}", file.path().display());
    without_kvm(&store).refused(5, &["/dev/kvm does not exist", "--machine sim"]);
}

fn no_kvm_and_nothing_real_asked_for() {
    let ran = without_kvm("").ended(0);
    assert!(
        ran.stdout.starts_with("machine: simulated, "),
        "{}",
        ran.stdout
    );
}

/// A user who may serve page faults, but not open /dev/kvm.
fn kvm_for_others_only() {
    let (_directory, binary) = for_everybody();
    let mut command = Command::new("unshare");
    // Its own /dev, where the devices have the mode that matters here.
    let script = "mount -t tmpfs none /dev && mknod -m 600 /dev/kvm c 10 232 && \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups \
                  --inh-caps=+sys_ptrace --ambient-caps=+sys_ptrace \"$0\" run --pages 8";
    command.args(["--mount", "sh", "-c", script]).arg(binary);
    output(&mut command).refused(5, &["/dev/kvm may not be opened", "usermod -aG kvm"]);
}

/// A user who may open /dev/kvm, but not serve page faults of the kernel.
fn no_permission_to_serve_faults() {
    let (_directory, binary) = for_everybody();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/kvm c 10 232 && \
                  mknod -m 600 /dev/userfaultfd c 10 257 && \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" run --pages 8";
    command.args(["--mount", "sh", "-c", script]).arg(binary);
    output(&mut command).refused(
        5,
        &[
            "no permission to serve page faults",
            "setfacl -m u:USER:rw /dev/userfaultfd",
            "vm.unprivileged_userfaultfd=1",
        ],
    );
}
